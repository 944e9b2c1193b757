"""Which family the next sampled trial comes from: the one that promises most gain for its time.

Thompson sampling. Gains of a family come like events at an unknown rate per second; a Gamma distribution says what is believed
of that rate, one draw from each family's decides. Old trials count less and less, since gains become rarer as a family is used
up. A pure function of the trials and the seed: workers with one history agree, and nobody keeps a state.

Source of the belief: Gamma-Poisson conjugacy. Of the aim, gain per cost: FLAML's estimated cost for improvement (Wang et al. 2021,
arXiv:1911.04706).
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from kubeautoml.api.trials import TrialAttr
from kubeautoml_trainer.search.cost import Costs
from kubeautoml_trainer.search.space import FAMILY

MEMORY = 0.9
"""What a trial counts after each later one of its family; a guess: ten trials are remembered well."""

PRIOR = 0.5
"""How many trials the belief before the first one weighs; a guess."""

NEW_BEST, FAMILY_BEST, NEARBY = 1.0, 0.5, 0.1
"""Gain of a trial that beats all others, its family's others, or is only about as good as the best, which an ensemble can use too.
All three are guesses; they are taken times how near the trial comes to the best.
"""


@dataclass(frozen=True)
class Moment:
    """What a worker knows when it takes a trial.

    families: those that may be sampled. seconds_left: None without a time budget; then nothing depends on times that were
    measured, so that the same seed finds the same trials again.
    """

    families: tuple[str, ...]
    seconds_left: float | None = None
    costs: Costs = field(default_factory=Costs)
    most_trials: Mapping[str, int] = field(default_factory=dict)
    """Family -> sampled trials that are worth their time, for those where tuning hardly pays."""


def choose_family(trials: Sequence[FrozenTrial], moment: Moment, seed: int, *, maximize: bool) -> str:
    """The family of the next sampled trial. maximize: whether larger values are better."""
    rng = np.random.default_rng(seed)
    found = _histories(trials, maximize)
    used_up = {f for f in moment.families if _sampled(trials, f) >= moment.most_trials.get(f, len(trials) + 1)}
    families = [f for f in moment.families if f not in used_up] or list(moment.families)
    draws = [_draw(found.get(f, []), _cost(f, moment), moment, rng) for f in families]
    return families[int(np.argmax(draws))]


@dataclass(frozen=True)
class _Past:
    gain: float
    seconds: float


def _draw(past: Sequence[_Past], cost: float, moment: Moment, rng: np.random.Generator) -> float:
    """A rate of gain per second (or unit of work) that the belief allows; before the first trial one gain a trial is believed."""
    shape, spent = PRIOR, PRIOR * cost
    for age, trial in enumerate(reversed(past)):
        shape += MEMORY**age * trial.gain
        spent += MEMORY**age * (cost if moment.seconds_left is None else trial.seconds)
    return float(rng.gamma(shape)) / max(spent, 1e-9)


def _cost(family: str, moment: Moment) -> float:
    known = None if moment.seconds_left is None else moment.costs.of_family(family)
    return moment.costs.relative(family) if known is None else known


def _sampled(trials: Sequence[FrozenTrial], family: str) -> int:
    special = (TrialAttr.PORTFOLIO.value, TrialAttr.PROMOTES.value)
    return sum(t.params.get(FAMILY) == family and not any(a in t.user_attrs for a in special) for t in trials)


def _histories(trials: Sequence[FrozenTrial], maximize: bool) -> dict[str, list[_Past]]:
    """Family -> what its ended trials brought, in the order of their numbers."""
    found: dict[str, list[_Past]] = defaultdict(list)
    best: float | None = None
    bests: dict[str, float] = {}
    values: list[float] = []
    for trial in sorted(trials, key=lambda t: t.number):
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED) or TrialAttr.PROMOTES.value in trial.user_attrs:
            continue
        family = str(trial.params.get(FAMILY, ""))
        seconds = trial.duration.total_seconds() if trial.duration is not None else 0.0
        value = trial.values[0] if trial.state is TrialState.COMPLETE and trial.values else math.nan
        if not math.isfinite(value):
            found[family].append(_Past(0.0, seconds))
            continue
        is_best = best is None or (value > best if maximize else value < best)
        own = bests.get(family)
        is_own_best = own is None or (value > own if maximize else value < own)
        near = 1.0 if best is None or is_best else math.exp(-abs(value - best) / _spread([*values, value]))
        found[family].append(_Past(near * (NEW_BEST if is_best else FAMILY_BEST if is_own_best else NEARBY), seconds))
        best = value if is_best else best
        if is_own_best:
            bests[family] = value
        values.append(value)
    return found


def _spread(values: Sequence[float]) -> float:
    """Twice as far as values usually are from the middle one: farther behind the best, a trial helps nobody; a guess."""
    middle = statistics.median(values)
    return max(2 * statistics.median(abs(v - middle) for v in values), 1e-12 * max(1.0, abs(middle)))
