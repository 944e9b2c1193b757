"""Who proposes the next trial: the portfolio first, then the optimiser the manifest asks for.

No leader enqueues the portfolio. Trial numbers are unique and in order, so trial k simply takes entry k, not counting earlier
retries of lost trials, which Optuna numbers as well. Every worker comes to the same answer without asking another.

Samplers are made anew for every trial with a seed of (job seed, trial number): trials of different pods never draw the same
numbers, and one worker with the same seed finds the same trials again.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from kubeautoml.api.job import SamplerType
from kubeautoml.api.trials import TrialAttr
from kubeautoml_trainer.models.space import Choice, Float, Int
from kubeautoml_trainer.search.plan import Entry, SearchPlan, applies, contains

GP_MAX_TRIALS = 250
GP_MAX_DIMENSIONS = 20
"""Above these, Auto takes TPE: a Gaussian process costs the cube of the trials (Optuna's own AutoSampler has this limit)."""

POPULATION = 50
"""Evolutionary: TPOT's population, so that its example can be run side by side."""


def seed_of(*parts: object) -> int:
    """A seed from anything, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def make_sampler(kind: SamplerType, plan: SearchPlan, workers: int) -> Callable[[int], BaseSampler]:
    """Seed -> sampler. `workers` sizes TPE's random start."""
    startup = max(10, 2 * workers)
    chosen = _auto(plan) if kind is SamplerType.AUTO else kind

    def tpe(seed: int) -> BaseSampler:
        return TPESampler(multivariate=True, group=True, constant_liar=True, n_startup_trials=startup, seed=seed)

    def evolutionary(seed: int) -> BaseSampler:
        return NSGAIISampler(population_size=POPULATION, seed=seed)

    makers: dict[SamplerType, Callable[[int], BaseSampler]] = {
        SamplerType.TPE: tpe,
        SamplerType.GP: lambda seed: GPSampler(seed=seed, n_startup_trials=startup, independent_sampler=tpe(seed)),
        # a conditional space has no one shape to learn; what CMA-ES cannot take is left to TPE
        SamplerType.CMA_ES: lambda seed: CmaEsSampler(
            seed=seed, n_startup_trials=startup, independent_sampler=tpe(seed), warn_independent_sampling=False
        ),
        SamplerType.EVOLUTIONARY: evolutionary,
        SamplerType.RANDOM: lambda seed: RandomSampler(seed=seed),
        SamplerType.GRID: lambda seed: RandomSampler(seed=seed),
    }
    return makers[chosen]


def _auto(plan: SearchPlan) -> SamplerType:
    """A Gaussian process for one small flat space, TPE for everything conditional."""
    if len(plan.spaces) > 1:
        return SamplerType.TPE
    space = next(iter(plan.spaces.values()))
    is_flat = not any(spec.when for spec in space.values())
    return SamplerType.GP if is_flat and len(space) <= GP_MAX_DIMENSIONS else SamplerType.TPE


class PortfolioSampler(BaseSampler):  # type: ignore[misc]  # untyped here
    """Fixed values while the portfolio lasts, then what the inner sampler says."""

    def __init__(self, plan: SearchPlan, inner: Callable[[int], BaseSampler], seed: int) -> None:
        self._plan = plan
        self._make = inner
        self._seed = seed
        self._inner: BaseSampler = inner(seed)
        self._entries: dict[int, int | None] = {}

    def entry_number(self, study: Study, trial: FrozenTrial) -> int | None:
        """Which portfolio entry a trial is; None when it is sampled."""
        if trial.number not in self._entries:
            self._entries[trial.number] = self._find(study, trial)
        return self._entries[trial.number]

    def entry(self, study: Study, trial: FrozenTrial) -> Entry | None:
        """The portfolio entry of a trial."""
        number = self.entry_number(study, trial)
        return None if number is None else self._plan.portfolio[number]

    def _find(self, study: Study, trial: FrozenTrial) -> int | None:
        if TrialAttr.PORTFOLIO in trial.user_attrs:
            return int(trial.user_attrs[TrialAttr.PORTFOLIO])
        if TrialAttr.RETRY_OF in trial.user_attrs:
            return None
        earlier = study.get_trials(deepcopy=False)
        retries = sum(1 for t in earlier if t.number < trial.number and TrialAttr.RETRY_OF in t.user_attrs)
        number = trial.number - retries
        return number if number < len(self._plan.portfolio) else None

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner = self._make(seed_of(self._seed, trial.number))
        if self.entry_number(study, trial) is None:
            self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if self.entry_number(study, trial) is not None:
            return {}
        return dict(self._inner.infer_relative_search_space(study, trial))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if self.entry_number(study, trial) is not None:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return dict(self._inner.sample_relative(study, trial, search_space))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        entry = self.entry(study, trial)
        if entry is None:
            return self._inner.sample_independent(study, trial, param_name, param_distribution)
        return entry.family if param_name == "family" else entry.parameters[param_name.partition(".")[2]]

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        if self.entry_number(study, trial) is None:
            self._inner.after_trial(study, trial, state, values)


def suggest(trial: optuna.Trial, plan: SearchPlan, entry: Entry | None) -> Entry:
    """The pipeline of a trial. What of a portfolio entry lies in the search space becomes a parameter of the study, so that
    samplers learn from it; the rest of the entry is used all the same.
    """
    family = str(trial.suggest_categorical("family", tuple(plan.families)))
    space = plan.spaces[family]
    parameters: dict[str, Any] = {}
    for name, spec in space.items():
        is_fixed = entry is not None and (name not in entry.parameters or not contains(spec, entry.parameters[name]))
        if is_fixed or not applies(spec.when, entry.parameters if entry else parameters):
            continue
        parameters[name] = _suggest(trial, f"{family}.{name}", spec)
    return Entry(family, parameters if entry is None else dict(entry.parameters))


def _suggest(trial: optuna.Trial, name: str, spec: Float | Int | Choice) -> Any:
    if isinstance(spec, Choice):
        return trial.suggest_categorical(name, spec.choices)
    if isinstance(spec, Int):
        step = 1 if spec.log else spec.step
        return trial.suggest_int(name, spec.low, spec.high, step=step, log=spec.log)
    return trial.suggest_float(name, spec.low, spec.high, log=spec.log)


def family_of(trial: FrozenTrial) -> str | None:
    """The family of a trial that has asked for it."""
    found = trial.params.get("family")
    return None if found is None else str(found)
