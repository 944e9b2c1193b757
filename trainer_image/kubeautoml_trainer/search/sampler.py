"""Who proposes the next trial: the portfolio first, then the optimiser the manifest asks for.

No leader enqueues the portfolio. Trial numbers are unique and in order, so trial k simply takes entry k, not counting earlier
retries of lost trials, which Optuna numbers as well. Every worker comes to the same answer without asking another.

Samplers are made anew for every trial with a seed of (job seed, trial number): trials of different pods never draw the same
numbers, and one worker with the same seed finds the same trials again.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Collection
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from kubeautoml.api.search import SamplerType
from kubeautoml.api.trials import TrialAttr
from kubeautoml_trainer.models.space import Choice
from kubeautoml_trainer.search.budget import first_attempt
from kubeautoml_trainer.search.by_family import ByFamilySampler, cma_es, gaussian_process, tree_parzen
from kubeautoml_trainer.search.evolution import EvolutionarySampler
from kubeautoml_trainer.search.plan import SearchPlan
from kubeautoml_trainer.search.space import FAMILY

GP_MAX_TRIALS = 250
GP_MAX_DIMENSIONS = 20
"""Above these, Auto takes TPE: a Gaussian process costs the cube of the trials (Optuna's own AutoSampler has this limit)."""

STARTUP = 16
"""Trials before an optimiser takes over from chance. Twice the workers is advised for TPE; their number may change
while the job runs, and samplers of different workers must not differ, so this is for eight.
"""

FAMILY_STARTUP = 5
"""Trials of a family, with all its parameters, before TPE takes over in it from chance; a guess."""

Maker = Callable[[int, int], BaseSampler]
"""(seed, trial number) -> sampler."""


def seed_of(*parts: object) -> int:
    """A seed from anything, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def make_sampler(kind: SamplerType, plan: SearchPlan) -> Maker:
    """The optimiser of a job."""

    def make(seed: int, number: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return _MAKERS[auto(plan, number) if kind is SamplerType.AUTO else kind](plan, seed)

    return make


def auto(plan: SearchPlan, number: int) -> SamplerType:
    """A Gaussian process for one small flat numeric space, TPE for everything conditional."""
    spaces = [plan.spaces[family] for family in plan.searchable]
    if len(spaces) != 1 or number >= GP_MAX_TRIALS or len(spaces[0]) > GP_MAX_DIMENSIONS:
        return SamplerType.TPE
    is_flat = not any(spec.when or isinstance(spec, Choice) for spec in spaces[0].values())
    return SamplerType.GP if is_flat else SamplerType.TPE


def _tpe(plan: SearchPlan, seed: int) -> BaseSampler:
    return ByFamilySampler(plan, tree_parzen(seed, FAMILY_STARTUP), _one_by_one(seed), only_numbers=False)


def _gp(plan: SearchPlan, seed: int) -> BaseSampler:
    other = _one_by_one(seed)
    return ByFamilySampler(plan, gaussian_process(seed, STARTUP, other), other, only_numbers=False)


def _cma_es(plan: SearchPlan, seed: int) -> BaseSampler:
    return ByFamilySampler(plan, cma_es(seed, STARTUP), _one_by_one(seed), only_numbers=True)


def _one_by_one(seed: int) -> BaseSampler:
    """TPE for one parameter at a time: the family, and what is conditional."""
    return TPESampler(constant_liar=True, n_startup_trials=STARTUP, seed=seed)


def _random(plan: SearchPlan, seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _evolutionary(plan: SearchPlan, seed: int) -> BaseSampler:
    return EvolutionarySampler(seed)


_MAKERS: dict[SamplerType, Callable[[SearchPlan, int], BaseSampler]] = {
    SamplerType.TPE: _tpe,
    SamplerType.GP: _gp,
    SamplerType.CMA_ES: _cma_es,
    SamplerType.EVOLUTIONARY: _evolutionary,
    SamplerType.RANDOM: _random,
    # the grid is the portfolio; nothing is sampled after it
    SamplerType.GRID: _random,
}


class PortfolioSampler(BaseSampler):  # type: ignore[misc]  # optuna is read without types
    """Fixed values while the portfolio lasts, then what the inner sampler says."""

    def __init__(self, plan: SearchPlan, make: Maker, seed: int) -> None:
        self._plan = plan
        self._make = make
        self._seed = seed
        self._inner: BaseSampler = make(seed, 0)
        self._entries: dict[int, int | None] = {}
        self._allowed: Collection[str] = plan.searchable

    def allow(self, families: Collection[str]) -> None:
        """Let only these families be sampled from now on (those whose trials fit the time left); portfolio entries of others
        are passed over. Families without parameters never are: their portfolio entry is all there is to try.
        """
        self._allowed = [f for f in self._plan.searchable if f in families] or self._plan.searchable

    def entry_number(self, study: Study, trial: FrozenTrial) -> int | None:
        """Which portfolio entry a trial is; None when it is sampled."""
        if trial.number not in self._entries:
            self._entries[trial.number] = self._find(study, trial)
        return self._entries[trial.number]

    def _find(self, study: Study, trial: FrozenTrial) -> int | None:
        if TrialAttr.PORTFOLIO in trial.user_attrs:
            return int(trial.user_attrs[TrialAttr.PORTFOLIO])
        if trial.system_attrs.get("fixed_params"):
            return None
        trials = {t.number: t for t in study.get_trials(deepcopy=False)}
        number = first_attempt(trial, trials)
        retries = sum(1 for n, t in trials.items() if n < number and TrialAttr.RETRY_OF in t.user_attrs)
        entry = number - retries
        return entry if entry < len(self._plan.portfolio) and self._is_allowed(entry) else None

    def _is_allowed(self, entry: int) -> bool:
        family = self._plan.portfolio[entry].family
        return family in self._allowed or family not in self._plan.searchable or self._plan.only_portfolio

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner = self._make(seed_of(self._seed, trial.number), trial.number)
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
        found = dict(self._inner.sample_relative(study, trial, search_space))
        return {**found, FAMILY: self._worthwhile(found[FAMILY], trial)} if FAMILY in found else found

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        number = self.entry_number(study, trial)
        if number is not None:
            entry = self._plan.portfolio[number]
            return entry.family if param_name == FAMILY else entry.parameters[param_name.partition(".")[2]]
        value = self._inner.sample_independent(study, trial, param_name, param_distribution)
        return self._worthwhile(value, trial) if param_name == FAMILY else value

    def _worthwhile(self, family: str, trial: FrozenTrial) -> str:
        allowed = list(self._allowed)
        return family if family in allowed else allowed[seed_of(self._seed, trial.number, FAMILY) % len(allowed)]

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        if self.entry_number(study, trial) is None:
            self._inner.after_trial(study, trial, state, values)


def origin_of(study: Study, trial: FrozenTrial) -> int:
    """The first attempt at a trial's parameters: what its seed comes from, so that a retry repeats it."""
    if TrialAttr.RETRY_OF not in trial.user_attrs:
        return int(trial.number)
    return first_attempt(trial, {t.number: t for t in study.get_trials(deepcopy=False)})
