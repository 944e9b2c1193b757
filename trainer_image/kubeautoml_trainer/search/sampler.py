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
from dataclasses import replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from kubeautoml.api.search import Sampler, SamplerType
from kubeautoml.api.trials import TrialAttr
from kubeautoml_trainer.models.space import Choice
from kubeautoml_trainer.search.allocation import Moment
from kubeautoml_trainer.search.budget import first_attempt
from kubeautoml_trainer.search.by_family import ByFamilySampler, cma_es, gaussian_process, tree_parzen
from kubeautoml_trainer.search.cost import Costs
from kubeautoml_trainer.search.evolution import EvolutionarySampler
from kubeautoml_trainer.search.plan import Entry, SearchPlan
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

Maker = Callable[[int, int, Moment], BaseSampler]
"""(seed, trial number, what is known when the trial is taken) -> sampler."""


def seed_of(*parts: object) -> int:
    """A seed from anything, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def make_sampler(wanted: Sampler, plan: SearchPlan) -> Maker:
    """The optimiser of a job."""

    def make(seed: int, number: int, moment: Moment) -> BaseSampler:
        kind = auto(plan, number) if wanted.type is SamplerType.AUTO else wanted.type
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            match kind:
                case SamplerType.EVOLUTIONARY:
                    return EvolutionarySampler(seed, wanted.population, wanted.generations)
                case SamplerType.GP:
                    other = _one_by_one(seed)
                    proposal = gaussian_process(seed, STARTUP, other)
                    return ByFamilySampler(plan, proposal, other, moment, seed, only_numbers=False)
                case SamplerType.CMA_ES:
                    proposal = cma_es(seed, STARTUP)
                    return ByFamilySampler(plan, proposal, _one_by_one(seed), moment, seed, only_numbers=True)
                case SamplerType.TPE:
                    proposal = tree_parzen(seed, FAMILY_STARTUP)
                    return ByFamilySampler(plan, proposal, _one_by_one(seed), moment, seed, only_numbers=False)
                case _:  # Random; and Grid, whose points are the portfolio: nothing is sampled after it
                    return RandomSampler(seed=seed)

    return make


def auto(plan: SearchPlan, number: int) -> SamplerType:
    """A Gaussian process for one small flat numeric space, TPE for everything conditional."""
    spaces = [plan.spaces[family] for family in plan.searchable]
    if len(spaces) != 1 or number >= GP_MAX_TRIALS or len(spaces[0]) > GP_MAX_DIMENSIONS:
        return SamplerType.TPE
    is_flat = not any(spec.when or isinstance(spec, Choice) for spec in spaces[0].values())
    return SamplerType.GP if is_flat else SamplerType.TPE


def _one_by_one(seed: int) -> BaseSampler:
    """TPE for one parameter at a time: what is conditional."""
    return TPESampler(constant_liar=True, n_startup_trials=STARTUP, seed=seed)


class PortfolioSampler(BaseSampler):  # type: ignore[misc]  # optuna is read without types
    """Fixed values while the portfolio lasts, then what the inner sampler says."""

    def __init__(self, plan: SearchPlan, make: Maker, seed: int) -> None:
        self._plan = plan
        self._make = make
        self._seed = seed
        self._moment = Moment(plan.searchable, costs=Costs(accelerated=plan.accelerated), most_trials=plan.most_trials)
        self._inner: BaseSampler = make(seed, 0, self._moment)
        self._entries: dict[int, int | None] = {}
        self._fixed: Entry | None = None

    def allow(self, moment: Moment) -> None:
        """Let only the moment's families be sampled from now on (those whose trials fit the time left); portfolio entries that do
        not fit are passed over. Families without parameters never are: their portfolio entry is all there is to try.
        """
        families = tuple(f for f in self._plan.searchable if f in moment.families) or self._plan.searchable
        self._moment = replace(moment, families=families, most_trials=self._plan.most_trials)

    def fix(self, entry: Entry | None) -> None:
        """Let the next trial, unless it is a retry, be this pipeline; None for what the portfolio or the sampler says."""
        self._fixed = entry

    def fixed_entry(self, study: Study, trial: FrozenTrial) -> Entry | None:
        """The pipeline of a trial that is not sampled."""
        if self._fixed is not None and not trial.system_attrs.get("fixed_params"):
            return self._fixed
        number = self.entry_number(study, trial)
        return None if number is None else self._plan.portfolio[number]

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
        return entry if entry < len(self._plan.portfolio) and self._is_allowed(self._plan.portfolio[entry]) else None

    def _is_allowed(self, entry: Entry) -> bool:
        if entry.family not in self._plan.searchable or self._plan.only_portfolio:
            return True
        left = self._moment.seconds_left
        seconds = None if left is None else self._moment.costs.of(entry)
        return entry.family in self._moment.families and (seconds is None or left is None or seconds <= left)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner = self._make(seed_of(self._seed, trial.number), trial.number, self._moment)
        if self.fixed_entry(study, trial) is None:
            self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if self.fixed_entry(study, trial) is not None:
            return {}
        return dict(self._inner.infer_relative_search_space(study, trial))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if self.fixed_entry(study, trial) is not None:
            return {}
        found = dict(self._inner.sample_relative(study, trial, search_space))
        return {**found, FAMILY: self._worthwhile(found[FAMILY], trial)} if FAMILY in found else found

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        entry = self.fixed_entry(study, trial)
        if entry is not None:
            return entry.family if param_name == FAMILY else entry.parameters[param_name.partition(".")[2]]
        value = self._inner.sample_independent(study, trial, param_name, param_distribution)
        return self._worthwhile(value, trial) if param_name == FAMILY else value

    def _worthwhile(self, family: str, trial: FrozenTrial) -> str:
        allowed = self._moment.families
        return family if family in allowed else allowed[seed_of(self._seed, trial.number, FAMILY) % len(allowed)]

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        if self.fixed_entry(study, trial) is None:
            self._inner.after_trial(study, trial, state, values)


def origin_of(study: Study, trial: FrozenTrial) -> int:
    """The first attempt at a trial's parameters: what its seed comes from, so that a retry repeats it."""
    if TrialAttr.RETRY_OF not in trial.user_attrs:
        return int(trial.number)
    return first_attempt(trial, {t.number: t for t in study.get_trials(deepcopy=False)})
