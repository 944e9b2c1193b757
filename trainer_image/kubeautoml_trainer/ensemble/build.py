"""From stored trials to a finished bundle on disk: select, write, load back, compare, and keep what the job allows it to cost."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import BundleError, KubeAutoMLError, ObjectNotFound
from kubeautoml.api.names import ArtifactPaths
from kubeautoml.api.objective import ConstraintMetric
from kubeautoml.api.pod import PodJob
from kubeautoml.storage import ObjectStore
from kubeautoml_trainer.artifacts import unpack_models
from kubeautoml_trainer.bundle import MemberFiles, Model, SecondFiles, bundle_size, load_bundle
from kubeautoml_trainer.data.base import PreparedData
from kubeautoml_trainer.ensemble.base import Candidate, Cost, Second, Selection, combined
from kubeautoml_trainer.ensemble.candidates import choose_candidates
from kubeautoml_trainer.ensemble.greedy import select, without_the_hardly_missed
from kubeautoml_trainer.ensemble.measure import MEGABYTE, latency_ms, limit_of, raw_rows
from kubeautoml_trainer.ensemble.stacking import second_level
from kubeautoml_trainer.ensemble.stored import (
    ScoredTrial,
    Shapes,
    StoredTrial,
    read_trials,
    set_aside,
)
from kubeautoml_trainer.features.again import one_prediction
from kubeautoml_trainer.models.base import Pipeline
from kubeautoml_trainer.models.pipeline import load_pipeline
from kubeautoml_trainer.tasks.base import Task

log = logging.getLogger("kubeautoml.finalize")

TOLERANCE = 1e-5
"""How far, absolutely and relatively, a loaded member may be from its stored predictions."""
CHECKED_ROWS = 1_000
"""Hold-out rows on which loaded models are compared with what they predicted before: a mistake shows in a few, and an ensemble of many
forests needs seconds for thousands."""
_CALLS, _CALLS_SECONDS = 100, 2.0
_CANDIDATE_CALLS, _CANDIDATE_SECONDS = 20, 1.0


class FinalizeError(KubeAutoMLError):
    """No model can be made; the reason and message end in the job's condition."""

    default_reason = Reason.FINALIZE_FAILED


@dataclass(frozen=True)
class Workshop:
    """What building needs: where things are, the rows, and by when (`time.monotonic()`) the selection must be done.

    with_second: whether a second level may be tried; only variants that hold the whole ensemble can use one.
    weighs_time: whether the time that members take to predict may decide which are taken. It is another with every run, so not where the
    same seed must give the same model: where no clock ends the search.
    """

    job: PodJob
    store: ObjectStore
    data: PreparedData
    task: Task
    scratch: Path
    selection_deadline: float
    threads: int = 1
    with_second: bool = True
    weighs_time: bool = True

    @property
    def paths(self) -> ArtifactPaths:
        return self.job.paths


@dataclass(frozen=True)
class Built:
    """A bundle on disk that predicts what its members' stored predictions say."""

    folder: Path
    model: Model = field(repr=False)
    selection: Selection
    members: Mapping[int, StoredTrial] = field(repr=False)
    candidates: Mapping[int, StoredTrial] = field(repr=False)
    """All trials that were read, the members among them."""
    files: tuple[MemberFiles, ...] = field(repr=False)
    """Where the members' pipelines are, all folds of them."""
    second: SecondFiles | None = field(repr=False)
    holdout: np.ndarray = field(repr=False)
    """float32 (hold-out rows, outputs): what the model predicts, by the stored predictions."""
    latency_p99_ms: float
    size_bytes: int


Write = Callable[[Path, Selection, Sequence[MemberFiles], SecondFiles | None, np.ndarray], None]
"""(folder, selection, members, second level, hold-out predictions): write the bundle."""


def build(shop: Workshop, scored: Sequence[ScoredTrial], write: Write) -> Built:
    """The best model that the stored trials allow.

    Raises:
        FinalizeError: no trial has usable artifacts, or nothing keeps the job's constraints.
    """
    left = {t.trial: t for t in scored}
    limit = hard = limit_of(shop.job.constraints)
    stored: dict[int, StoredTrial] = {}
    costs: dict[int, Cost] = {}
    rounds: dict[int, StoredTrial] = {}
    nearest: list[Cost] = []
    with_second = shop.with_second
    while left:
        chosen = choose_candidates(list(left.values()), shop.job.metric, len(shop.data.train))
        if _drop(left, _read_missing(shop, chosen, stored)) or _drop(
            left, _measure_missing(shop, chosen, stored, hard, costs)
        ):
            continue
        _read_first_rounds(shop, chosen, stored, rounds)
        candidates = [_candidate(shop, t, stored[t.trial], costs[t.trial], rounds.get(t.trial)) for t in chosen]
        selection = select(
            candidates,
            shop.task,
            shop.job.metric,
            shop.data.train.y,
            shop.data.train.weight,
            seed=shop.job.search.seed,
            limit=limit,
            deadline=shop.selection_deadline,
            fold=shop.data.fold,
        )
        if selection is None:
            break
        if with_second:
            selection = _with_second(shop, candidates, selection)
        if selection.second is None:  # one needs all its inputs
            selection = without_the_hardly_missed(
                selection,
                candidates,
                shop.task,
                shop.job.metric,
                shop.data.train.y,
                shop.data.train.weight,
                seed=shop.job.search.seed,
                deadline=shop.selection_deadline,
            )
        built, bad = _assemble(shop, selection, stored, write)
        if built is None:
            _drop(left, bad)
            continue
        cost = Cost(built.latency_p99_ms, built.size_bytes)
        if cost.fits(hard) or hard == limit_of([]):
            return built
        nearest.append(cost)
        if selection.second is not None:
            with_second = False
        elif len(selection.weights) == 1:
            _drop(left, selection.weights)
        else:
            limit = _tighter(limit, cost, hard)
    raise not_within(shop.paths.root, hard, nearest or [costs[n] for n in left if n in costs])


def _with_second(shop: Workshop, candidates: Sequence[Candidate], greedy: Selection) -> Selection:
    """With a second level, where one wins."""
    data = shop.data
    try:
        found = second_level(
            candidates,
            greedy,
            shop.task,
            shop.job.metric,
            data.train,
            data.fold,
            data.schema,
            groups=data.groups,
            seed=shop.job.search.seed,
            threads=shop.threads,
            deadline=shop.selection_deadline,
        )
    except Exception as error:  # noqa: BLE001  # any library's; the greedy ensemble is there all the same
        log.warning("a second level could not be tried", extra={"error": repr(error)[:300]})
        return greedy
    return found or greedy


def _drop(left: dict[int, ScoredTrial], numbers: object) -> bool:
    """Take trials out of the running; whether there were any."""
    found = [n for n in numbers if left.pop(n, None) is not None]  # type: ignore[attr-defined]
    return bool(found)


def _read_missing(shop: Workshop, chosen: Sequence[ScoredTrial], stored: dict[int, StoredTrial]) -> list[int]:
    """Read those not read yet; returns those that cannot be."""
    shapes = Shapes(len(shop.data.train), len(shop.data.holdout), shop.task.outputs)
    wanted = [t.trial for t in chosen if t.trial not in stored]
    stored.update(read_trials(shop.store, shop.paths, wanted, shapes))
    return [n for n in wanted if n not in stored]


def _read_first_rounds(
    shop: Workshop,
    chosen: Sequence[ScoredTrial],
    stored: Mapping[int, StoredTrial],
    rounds: dict[int, StoredTrial],
) -> None:
    """Fill in what the first round of folds said of trials that have several.

    Their own predictions are means over rounds, of several models a row, where those of all others are of one: compared with these, the
    repeated would seem better than they are, and take weight from them. On the test rows of seven jobs (Titanic, German credit, ANES,
    diabetes, Boston; 70 to 280 trials, five repeated) that cost 0.6 +- 0.4 % of loss against weights without any repeated trial; weighed
    by their first rounds, 0.2 +- 0.3 %.
    """
    repeated = {t.promoted: t.trial for t in chosen if t.promoted is not None and t.trial not in rounds}
    shapes = Shapes(len(shop.data.train), len(shop.data.holdout), shop.task.outputs)
    for number, found in read_trials(shop.store, shop.paths, list(repeated), shapes).items():
        # one with as many folds is a trial on a sample that was run again on all rows: that is another model, not another round
        if found.record.folds < stored[repeated[number]].record.folds:
            rounds[repeated[number]] = found


def _measure_missing(
    shop: Workshop, chosen: Sequence[ScoredTrial], stored: Mapping[int, StoredTrial], hard: Cost, costs: dict[int, Cost]
) -> list[int]:
    """Fill in what each candidate costs; its latency only where the job limits it. Returns those that cannot be loaded."""
    broken = []
    rows = shop.data.holdout.frame if len(shop.data.holdout) else shop.data.train.frame
    for t in chosen:
        if t.trial in costs:
            continue
        size = float(stored[t.trial].record.size_bytes)
        latency = 0.0
        if math.isfinite(hard.latency_ms):
            try:
                pipelines = [load_pipeline(f) for f in fold_folders(shop, t.trial)]
            except (BundleError, ObjectNotFound) as error:
                set_aside(t.trial, error)
                broken.append(t.trial)
                continue
            latency = latency_ms(_all_folds(pipelines), rows, _CANDIDATE_CALLS, _CANDIDATE_SECONDS)
        costs[t.trial] = Cost(latency, size)
    return broken


def _all_folds(pipelines: Sequence[Pipeline]) -> Callable[[pd.DataFrame], object]:
    def predict(row: pd.DataFrame) -> list[np.ndarray]:
        with one_prediction():
            return [p.predict(row) for p in pipelines]

    return predict


def _candidate(
    shop: Workshop, trial: ScoredTrial, stored: StoredTrial, cost: Cost, first: StoredTrial | None
) -> Candidate:
    seconds = stored.record.predict_seconds if shop.weighs_time else 0.0
    if first is not None:
        return Candidate(trial.trial, trial.family, first.record.value, first.oof, cost, seconds)
    return Candidate(trial.trial, trial.family, trial.value, stored.oof, cost, seconds)


def unpacked(shop: Workshop, number: int) -> Path:
    """The folder of a trial's pipelines, fetched once."""
    folder = shop.scratch / "members" / str(number)
    if not folder.is_dir():
        partial = folder.with_name(f"{number}.partial")
        unpack_models(shop.store, shop.paths, number, partial)
        partial.rename(folder)
    return folder


def fold_folders(shop: Workshop, number: int) -> tuple[Path, ...]:
    """A trial's pipelines on disk, by fold."""
    folds = (p for p in unpacked(shop, number).iterdir() if p.name.isdigit())
    return tuple(sorted(folds, key=lambda p: int(p.name)))


def _assemble(
    shop: Workshop, selection: Selection, stored: Mapping[int, StoredTrial], write: Write
) -> tuple[Built | None, list[int]]:
    """The bundle, or the members that spoil it."""
    files, bad = [], []
    for number, weight in selection.weights.items():
        record = stored[number].record
        try:
            files.append(MemberFiles(number, record.family, record.parameters, weight, fold_folders(shop, number)))
        except (BundleError, ObjectNotFound) as error:
            set_aside(number, error)
            bad.append(number)
    if bad:
        return None, bad
    folder = _empty(shop.scratch / "quality")
    second = None if selection.second is None else _second_files(shop, selection.second)
    said = {n: stored[n].holdout for n in selection.weights}
    holdout = combined(said, selection.weights, selection.second, shop.data.holdout.frame)
    write(folder, selection, files, second, holdout)
    try:
        model = load_bundle(folder)
    except BundleError as error:
        bad = [n for n in selection.weights if not _loads(unpacked(shop, n), n)]
        if not bad:
            raise FinalizeError(f"the bundle cannot be loaded back: {error}") from error
        return None, bad
    bad = _unlike(model, selection, stored, shop.data)
    if bad:
        return None, bad
    rows = raw_rows(
        (shop.data.holdout if len(shop.data.holdout) else shop.data.train).frame.iloc[:64], shop.data.schema
    )
    latency = latency_ms(model.predict_frame, rows, _CALLS, _CALLS_SECONDS)
    if selection.second is not None:
        # its trees may jump where the stored predictions, sums in 32 bits, differ from the models' in the last of them; the rows that
        # are compared later are those of the models
        holdout[:CHECKED_ROWS] = model.predict_rows(shop.data.holdout.frame.iloc[:CHECKED_ROWS])
    members = {n: stored[n] for n in selection.weights}
    size = bundle_size(folder)
    return Built(folder, model, selection, members, stored, tuple(files), second, holdout, latency, size), []


def _second_files(shop: Workshop, second: Second) -> SecondFiles:
    """The second level on disk."""
    folder = _empty(shop.scratch / "second")
    second.level.save(folder)
    return SecondFiles(second.weight, second.inputs, second.value, folder)


def _unlike(model: Model, selection: Selection, stored: Mapping[int, StoredTrial], data: PreparedData) -> list[int]:
    """Members that, loaded, do not predict what their trial stored."""
    bad = []
    for number, member in zip(selection.weights, model.members, strict=True):
        said = stored[number].holdout[:CHECKED_ROWS]
        found = member.predict(data.holdout.frame.iloc[:CHECKED_ROWS]) if len(said) else said
        if not np.allclose(found, said, rtol=TOLERANCE, atol=TOLERANCE):
            worst = float(np.max(np.abs(found - said)))
            set_aside(number, f"its loaded models differ from its stored hold-out predictions by up to {worst:.3g}")
            bad.append(number)
    return bad


def _loads(folder: Path, number: int) -> bool:
    try:
        for fold in folder.iterdir():
            load_pipeline(fold)
    except BundleError as error:
        set_aside(number, error)
        return False
    return True


def _empty(folder: Path) -> Path:

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _tighter(limit: Cost, cost: Cost, hard: Cost) -> Cost:
    """A model costs more than the sum of its members' measurements said: ask for less by as much, and a little more."""

    def scaled(now: float, got: float, most: float) -> float:
        return min(now, most) * most / got * 0.95 if got > most else now

    return replace(
        limit,
        latency_ms=scaled(limit.latency_ms, cost.latency_ms, hard.latency_ms),
        size_bytes=scaled(limit.size_bytes, cost.size_bytes, hard.size_bytes),
    )


def not_within(root: str, hard: Cost, seen: Sequence[Cost]) -> FinalizeError:
    """What to say when no model of these costs keeps the limit; without any, there was none to look at."""
    if not seen:
        return FinalizeError(
            f"no completed trial has usable artifacts below {root}/trials/; were they deleted? run the job again",
            reason=Reason.NO_TRIAL_COMPLETED,
        )
    parts = []
    for metric, most, got in (
        (ConstraintMetric.PREDICT_LATENCY_P99_MS, hard.latency_ms, [c.latency_ms for c in seen]),
        (ConstraintMetric.MODEL_SIZE_MEGABYTES, hard.size_bytes / MEGABYTE, [c.size_bytes / MEGABYTE for c in seen]),
    ):
        if math.isfinite(most) and min(got) > most:
            parts.append(f"{metric.value} must be at most {most:g}, the nearest model has {min(got):.3g}")
    return FinalizeError(
        f"spec.constraints: {'; '.join(parts) or 'no model keeps all of them together'}; "
        "raise the limit or include faster families (spec.search.families)",
        reason=Reason.CONSTRAINTS_NOT_MET,
    )
