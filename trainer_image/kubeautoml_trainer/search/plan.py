"""What this job searches: its families, their spaces with the user's own ranges, and the portfolio that is tried first."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from rapidfuzz import process

from kubeautoml.api.conditions import Reason
from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.errors import DataError
from kubeautoml.api.objective import ClassWeight
from kubeautoml.api.pod import PodJob
from kubeautoml.api.search import Choices, Parameter, Preset, SamplerType, Search
from kubeautoml_trainer.data.base import PreparedData
from kubeautoml_trainer.models import EVERY_FAMILY, PRETRAINED_FAMILIES, QUANTILE_FAMILIES, SHARED_WEIGHTS
from kubeautoml_trainer.models.base import DataShape, Family
from kubeautoml_trainer.models.space import Choice, Float, Int, Parameters, Space, Value
from kubeautoml_trainer.models.weights import CLASS_WEIGHT
from kubeautoml_trainer.search.relative import relative_cost
from kubeautoml_trainer.tasks import SUITED, task_of
from kubeautoml_trainer.tasks.metrics import weights_or_ones

log = logging.getLogger(__name__)

FAST_ENTRIES = 6
"""Portfolio entries of the Fast preset; the ranks put the best quality a second first."""

BALANCED_RANK = 12
"""Highest rank in the Balanced preset. Measured on Titanic: the slow entries behind it take a third of a minute's budget and
come out no better; Best runs them all.
"""

LARGE_CELLS = 2_500_000
"""Values in the rows of one fit above which the cheap families come first, whatever their quality: before there is a model no time
is known, and the first must not be one that takes the whole budget. A guess: seconds a fit for LightGBM."""

FEW_TUNED = {"CatBoost": 2}
"""Sampled trials of families whose defaults are hard to beat: tuning CatBoost is worth little beside its time (TabArena, Erickson et
al. 2025, arXiv:2506.16791), unless most columns are categories."""

WEIGHED_METRICS = ("BalancedAccuracy", "F1", "F1Macro", "MatthewsCorrelation", "RecallAtPrecision", "ExpectedCost")
"""Metrics for which it may pay to let rare classes count more while models are fitted."""
BALANCED_ENOUGH = 0.7
"""Balance (see `DataShape`) from which on classes are not rare: 35 % of two; a guess."""
UNWEIGHED = ("Dummy", "TabularFoundation")
"""Families that do not look at the weights of rows, or learn nothing from them."""
TWINS, TWIN_RANK = ("Linear", "LightGBM"), 4
"""Families whose first entry comes back with balanced classes, so much later: quick ones that tell whether it pays; a guess. It seldom
does where the threshold is chosen well (German credit, Titanic and HR with rare classes, F1 and balanced accuracy, hold-outs of two
splits: 6 of 18 better, by 0.001 to 0.007, the others worse by as much or more), so the slow families only try it when sampled."""

GRID_STEPS = 3
"""Values of a range in a grid: both ends and the middle."""
MAX_GRID = 10_000


@dataclass(frozen=True)
class Entry:
    """One fixed pipeline to try."""

    family: str
    parameters: Parameters


@dataclass(frozen=True)
class SearchPlan:
    """Everything that trials may be. `only_portfolio`: nothing is sampled after the portfolio (Grid)."""

    families: dict[str, Family]
    spaces: dict[str, Space]
    portfolio: tuple[Entry, ...]
    only_portfolio: bool = False
    most_trials: Mapping[str, int] = field(default_factory=dict)
    """Family -> how many sampled trials are worth their time; families that are not in it have no limit."""
    accelerated: bool = False
    """Whether networks are trained on an accelerator."""

    @property
    def searchable(self) -> tuple[str, ...]:
        """Families that have parameters at all; the others have nothing to try after their portfolio entry."""
        return tuple(name for name, space in self.spaces.items() if space)


def data_shape(data: PreparedData, job: PodJob, accelerated: bool = False) -> DataShape:
    """The facts of the data on which spaces and portfolios depend. accelerated: whether networks train on an accelerator."""
    features = data.schema.features
    kinds = [c.type for c in features]
    folds = max(2, data.profile.folds)
    return DataShape(
        task=job.task.type,
        rows=len(data.train) * (folds - 1) // folds,
        features=len(features),
        categories=kinds.count(ColumnType.CATEGORY),
        texts=kinds.count(ColumnType.TEXT),
        images=kinds.count(ColumnType.IMAGE),
        side=min((min(c.height or 0, c.width or 0) for c in features if c.type is ColumnType.IMAGE), default=0),
        channels=max((c.channels or 0 for c in features if c.type is ColumnType.IMAGE), default=0),
        outputs=task_of(job, data.schema).outputs,
        quantiles=len(data.schema.quantiles),
        accelerated=accelerated,
        encodes_texts=any(w.family in SHARED_WEIGHTS for w in job.search.pretrained),
        balance=_balance(data),
    )


def _balance(data: PreparedData) -> float:
    classes = len(data.schema.classes)
    if not classes:
        return 1.0
    mass = np.bincount(data.train.y, weights=weights_or_ones(data.train.weight, len(data.train)), minlength=classes)
    return float(mass.min() * classes / mass.sum())


def search_plan(
    job: PodJob, shape: DataShape, warm: Iterable[Entry] = (), families: tuple[Family, ...] = EVERY_FAMILY
) -> SearchPlan:
    """The plan of a job; entries of earlier jobs (`warm`) come first.

    Raises:
        DataError: reason InvalidSearch; the manifest names a family or parameter that does not exist, or leaves nothing.
    """
    search = job.search
    known = {f.name: f for f in families}
    for name in (*search.families.include, *search.families.exclude):
        _must_know(name, known, "spec.search.families")
    chosen = _chosen(job, known, shape)
    weighs = _weighs_classes(job, shape)
    spaces = {name: _space(family, shape, search.parameters, weighs=weighs) for name, family in chosen.items()}
    for parameter in search.parameters:
        _must_know(parameter.when["family"], known, "spec.search.parameters.when.family")
    if search.sampler.type is SamplerType.GRID:
        return SearchPlan(
            chosen, spaces, _grid(spaces, search.seed), only_portfolio=True, accelerated=shape.accelerated
        )
    fitting = [_weighing(e, spaces) for e in warm if _fits(e, spaces)]
    portfolio = _unique([*fitting, *_entries(chosen, shape, search, spaces)])
    is_categorical = 2 * shape.categories > shape.features
    few = {} if is_categorical else {f: most for f, most in FEW_TUNED.items() if f in chosen}
    return SearchPlan(
        chosen,
        spaces,
        tuple(portfolio),
        only_portfolio=not any(spaces.values()),
        most_trials=few,
        accelerated=shape.accelerated,
    )


def _weighs_classes(job: PodJob, shape: DataShape) -> bool:
    """Whether each trial chooses what the rows of a class count."""
    is_free = job.objective.class_weight is ClassWeight.AUTO and shape.task.is_classification
    return is_free and job.metric in WEIGHED_METRICS and shape.balance < BALANCED_ENOUGH


def _weighing(entry: Entry, spaces: Mapping[str, Space]) -> Entry:
    """An entry of an earlier job, without what this one does not choose."""
    if CLASS_WEIGHT in spaces[entry.family]:
        return entry
    return Entry(entry.family, {k: v for k, v in entry.parameters.items() if k != CLASS_WEIGHT})


def _entries(
    chosen: Mapping[str, Family], shape: DataShape, search: Search, spaces: Mapping[str, Space]
) -> list[Entry]:
    """The families' own entries that the preset wants, best quality a second first. Where classes may be weighed, the first of quick
    families comes back balanced.
    """
    entries_of = {name: family.portfolio(shape) for name, family in chosen.items()}
    twins = [
        (entries[0][0] + TWIN_RANK, name, {**entries[0][1], CLASS_WEIGHT: "balanced"})
        for name, entries in entries_of.items()
        if name in TWINS and entries and CLASS_WEIGHT in spaces[name]
    ]
    own = [(rank, name, p) for name, entries in entries_of.items() for rank, p in entries]
    ranked = sorted([*own, *twins], key=lambda item: (item[0], item[1]))
    if search.preset is Preset.BALANCED:
        ranked = _balanced(ranked)
    if shape.rows * shape.features > LARGE_CELLS:
        ranked = _cheap_first(ranked, accelerated=shape.accelerated)
    entries = [Entry(name, p) for _, name, p in ranked if _keeps_user_ranges(name, search.parameters)]
    return entries[:FAST_ENTRIES] if search.preset is Preset.FAST else entries


Ranked = list[tuple[int, str, Parameters]]
"""Rank, family and parameters of portfolio entries, best rank first."""


def _balanced(ranked: Ranked) -> Ranked:
    """Without the slow entries, but with the first of each family: what is never tried is never known."""
    seen: set[str] = set()
    kept = []
    for item in ranked:
        if item[0] <= BALANCED_RANK or item[1] not in seen:
            kept.append(item)
        seen.add(item[1])
    return kept


def _cheap_first(ranked: Ranked, *, accelerated: bool) -> Ranked:
    """The first entry of each family by what the family costs, then the second of each, and so on."""
    place: dict[str, int] = {}
    placed = []
    for item in ranked:
        place[item[1]] = place.get(item[1], -1) + 1
        placed.append((place[item[1]], relative_cost(item[1], accelerated=accelerated), item))
    return [item for _, _, item in sorted(placed, key=lambda p: p[:2])]


def _fits(entry: Entry, spaces: Mapping[str, Space]) -> bool:
    """Whether an entry of an earlier job can be run in this one."""
    if entry.family in spaces:
        return True
    log.info("trial of an earlier job left out", extra={"family": entry.family})
    return False


def _must_know(name: str, known: Mapping[str, object], where: str) -> None:
    if name not in known:
        if name in {f.name for f in PRETRAINED_FAMILIES}:
            raise _invalid(f"{where}: {name} needs weights; give their uri and sha256 in spec.search.pretrained")
        near = process.extractOne(name, list(known), score_cutoff=60)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise _invalid(f"{where} must be one of {', '.join(known)}, got '{name}'{hint}")


def _invalid(message: str) -> DataError:
    return DataError(message, reason=Reason.INVALID_SEARCH)


def _chosen(job: PodJob, known: dict[str, Family], shape: DataShape) -> dict[str, Family]:
    search = job.search
    wanted = search.families.include or SUITED.get(shape.task) or list(known)
    kept = {n: f for n, f in known.items() if n in wanted and n not in search.families.exclude}
    if search.preset is Preset.INTERPRETABLE:
        kept = {n: f for n, f in kept.items() if f.interpretable}
    if shape.quantiles:
        kept = {n: f for n, f in kept.items() if n in QUANTILE_FAMILIES or getattr(f, "predicts_quantiles", False)}
    fitting = {n: f for n, f in kept.items() if f.fits(shape)}
    for name in kept.keys() - fitting.keys():
        log.info("family left out", extra={"family": name, "rows": shape.rows, "features": shape.features})
    if not fitting:
        raise _invalid(
            f"spec.search leaves no model family (preset {search.preset}, include {search.families.include}, exclude "
            f"{search.families.exclude}, {shape.rows} rows); families: {', '.join(known)}"
            + (f"; quantiles are predicted by {', '.join(QUANTILE_FAMILIES)}" if shape.quantiles else "")
        )
    return fitting


def _space(family: Family, shape: DataShape, parameters: list[Parameter], *, weighs: bool) -> Space:
    """The family's space, with the user's ranges in place of its own; conditional parameters stand last. weighs: with the weight of
    classes, for families that look at the weights of rows.
    """
    space = dict(family.space(shape))
    if weighs and family.name not in UNWEIGHED:
        space[CLASS_WEIGHT] = Choice(("none", "balanced"))
    own = tuple(space)
    given = [p for p in parameters if p.when["family"] == family.name]
    for parameter in given:
        for name in (parameter.name, *(k for k in parameter.when if k != "family")):
            _must_have(name, own, family.name)
        if sum(p.name == parameter.name for p in given) > 1:
            raise _invalid(f"spec.search.parameters must name {parameter.name} of {family.name} once, got it twice")
        conditions = {k: v for k, v in parameter.when.items() if k != "family"}
        if parameter.name in conditions:
            raise _invalid(f"spec.search.parameters: {parameter.name} of {family.name} must not depend on itself")
        space[parameter.name] = _range(family.name, parameter, space[parameter.name], conditions)
    return dict(sorted(space.items(), key=lambda item: bool(item[1].when)))


def _must_have(name: str, own: tuple[str, ...], family: str) -> None:
    if name not in own:
        near = process.extractOne(name, own, score_cutoff=60)
        hint = f"; did you mean {near[0]}?" if near else ""
        words = ", ".join(own) or "none"
        raise _invalid(f"spec.search.parameters: {family} has no parameter '{name}'{hint}; it has {words}")


def _range(
    family: str, given: Parameter, own: Float | Int | Choice, conditions: Mapping[str, str]
) -> Float | Int | Choice:
    when: dict[str, Value] = {**own.when, **conditions}
    if given.int is not None:
        made: Float | Int | Choice = Int(given.int.min, given.int.max, given.int.log, given.int.step, when)
    elif given.float is not None:
        if isinstance(own, Int):
            raise _invalid(
                f"spec.search.parameters: {given.name} of {family} is a whole number; give int instead of float"
            )
        made = Float(float(given.float.min), float(given.float.max), given.float.log, when)
    else:
        assert given.categorical is not None
        made = Choice(tuple(_value(family, given.name, text, own) for text in _texts(given.categorical)), when)
    if isinstance(own, Choice) and not isinstance(made, Choice):
        raise _invalid(
            f"spec.search.parameters: {given.name} of {family} must be categorical, one of {_listed(own.choices)}"
        )
    if isinstance(own, Float) and isinstance(made, Int):
        return Float(made.low, made.high, made.log, when)
    return made


def _texts(given: Choices) -> list[str]:
    return list(given.choices)


def _value(family: str, name: str, text: str, own: Float | Int | Choice) -> Value:
    """A value given as text, in the parameter's own type."""
    if isinstance(own, Choice):
        for choice in own.choices:
            if str(choice).lower() == text.lower():
                return choice
        raise _invalid(
            f"spec.search.parameters: {name} of {family} must be one of {_listed(own.choices)}, got '{text}'"
        )
    try:
        return int(text) if isinstance(own, Int) else float(text)
    except ValueError as error:
        kind = "a whole number" if isinstance(own, Int) else "a number"
        raise _invalid(f"spec.search.parameters: {name} of {family} must be {kind}, got '{text}'") from error


def _listed(choices: tuple[Value, ...]) -> str:
    return ", ".join(str(c).lower() if isinstance(c, bool) else str(c) for c in choices)


def _keeps_user_ranges(family: str, parameters: list[Parameter]) -> bool:
    """A user's range replaces what the entries of a family say; the default, which entries leave out, may lie outside it."""
    return not any(p.when["family"] == family for p in parameters)


def _unique(entries: list[Entry]) -> list[Entry]:
    seen: set[str] = set()
    kept = []
    for entry in entries:
        key = repr((entry.family, sorted(entry.parameters.items())))  # repr, as True == 1 == 1.0
        if key not in seen:
            seen.add(key)
            kept.append(entry)
    return kept


def _grid(spaces: dict[str, Space], seed: int) -> tuple[Entry, ...]:
    """Every combination of a few values of each parameter, in random order, so that a part of the grid covers all of it.

    A grid that is too large is cut to an even sample; each family gets its share.
    """
    entries = [
        e for family, space in spaces.items() for e in _combinations(family, space, MAX_GRID // len(spaces), seed)
    ]
    random.Random(seed).shuffle(entries)
    return tuple(_unique(entries))


def _combinations(family: str, space: Space, most: int, seed: int) -> list[Entry]:
    values = {name: _steps(spec) for name, spec in space.items()}
    total = math.prod(len(v) for v in values.values())
    if total > most:
        log.info("grid cut", extra={"family": family, "combinations": total, "kept": most})
    picks = range(total) if total <= most else random.Random(seed).sample(range(total), most)
    entries = []
    for pick in picks:
        parameters: dict[str, Value] = {}
        for name, steps in values.items():
            pick, index = divmod(pick, len(steps))
            if applies(space[name].when, parameters):
                parameters[name] = steps[index]
        entries.append(Entry(family, parameters))
    return entries


def _steps(spec: Float | Int | Choice) -> list[Value]:
    if isinstance(spec, Choice):
        return list(spec.choices)
    low, high = float(spec.low), float(spec.high)
    shares = [i / (GRID_STEPS - 1) for i in range(GRID_STEPS)]
    points = [low * (high / low) ** s if spec.log else low + (high - low) * s for s in shares]
    if isinstance(spec, Int):
        return sorted({min(spec.high, spec.low + spec.step * round((p - spec.low) / spec.step)) for p in points})
    return sorted(set(points))


def applies(when: Mapping[str, Value], parameters: Parameters) -> bool:
    """Whether a conditional parameter exists beside these."""
    return all(str(parameters.get(name)).lower() == str(value).lower() for name, value in when.items())


def contains(spec: Float | Int | Choice, value: Value) -> bool:
    """Whether a value lies in what may be searched; portfolio entries may lie outside."""
    if isinstance(spec, Choice):
        return any(type(c) is type(value) and c == value for c in spec.choices)
    if isinstance(value, bool | str):
        return False
    if isinstance(spec, Int):
        return float(value).is_integer() and spec.low <= value <= spec.high and (value - spec.low) % spec.step == 0
    return spec.low <= value <= spec.high
