"""Optimisers in a conditional space: first a family is chosen, then the optimiser works in that family's space alone.

The families share no parameters, so Optuna's own rule (what all trials have) would leave GP and CMA-ES nothing to do, and
TPE by groups would sample every family's parameters for each trial: measured, three times as long. The family is
chosen by `allocation.choose_family`; conditional and, for CMA-ES, categorical parameters by TPE over all trials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kubeautoml_trainer.search.allocation import Moment, choose_family
from kubeautoml_trainer.search.plan import Entry, SearchPlan
from kubeautoml_trainer.search.space import FAMILY, study_parameter, unconditional

Proposal = Callable[[Study, FrozenTrial, dict[str, BaseDistribution]], dict[str, Any]]
"""(study with the trials of one family only, trial, space) -> values; {} while there is too little to learn from."""


class ByFamilySampler(BaseSampler):  # type: ignore[misc]  # optuna is read without types
    """Chooses a family, then lets an optimiser propose in its space."""

    def __init__(
        self, plan: SearchPlan, propose: Proposal, other: BaseSampler, moment: Moment, seed: int, *, only_numbers: bool
    ) -> None:
        self._plan = plan
        self._moment = moment
        self._seed = seed
        self._propose = propose
        self._other = other
        self._only_numbers = only_numbers
        self._family = ""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        trials = study.get_trials(deepcopy=False)
        maximize = study.direction == StudyDirection.MAXIMIZE
        self._family = choose_family(trials, self._moment, self._seed, maximize=maximize)
        space = unconditional(self._family, self._plan.spaces[self._family], only_numbers=self._only_numbers)
        return {name: d for name, d in space.items() if not d.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        narrowed = _Narrowed(study, search_space)
        found = self._propose(narrowed, trial, search_space)
        return found if self._is_affordable(found) else self._cheaper(narrowed, found, search_space)

    def _is_affordable(self, params: dict[str, Any]) -> bool:
        left = self._moment.seconds_left
        seconds = None if left is None or not params else self._moment.costs.of(self._entry(params))
        return seconds is None or left is None or seconds <= left

    def _cheaper(
        self, study: Study, found: dict[str, Any], search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The best trial of the family that fits the time left, with half of its numbers moved towards what was proposed; the
        proposal where there is none.
        """
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        for trial in sorted(done, key=lambda t: (sign * t.values[0], t.number)):
            own = {name: trial.params[name] for name in search_space}
            if self._is_affordable(own):
                mixed = {n: found.get(n, v) if i % 2 else v for i, (n, v) in enumerate(own.items())}
                return mixed if self._is_affordable(mixed) else own
        return found

    def _entry(self, params: dict[str, Any]) -> Entry:
        prefix = study_parameter(self._family, "")
        return Entry(self._family, {n.removeprefix(prefix): v for n, v in params.items()})

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if param_name == FAMILY:
            return self._family
        return self._other.sample_independent(study, trial, param_name, param_distribution)


class _Narrowed(Study):  # type: ignore[misc]  # optuna is read without types
    """A study whose finished trials all have the parameters of one space."""

    def __init__(self, study: Study, space: dict[str, BaseDistribution]) -> None:
        self.__dict__.update(study.__dict__)
        self._space = space

    def _get_trials(
        self, deepcopy: bool = True, states: Sequence[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, states, use_cache)
        return [t for t in trials if not t.state.is_finished() or self._space.keys() <= t.params.keys()]


def tree_parzen(seed: int, startup: int) -> Proposal:
    """Optuna's TPE over all parameters together."""
    sampler = TPESampler(multivariate=True, constant_liar=True, n_startup_trials=startup, seed=seed)

    def propose(study: Study, trial: FrozenTrial, space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return dict(sampler.sample_relative(study, trial, space))

    return propose


def gaussian_process(seed: int, startup: int, other: BaseSampler) -> Proposal:
    """Optuna's Gaussian process."""
    sampler = GPSampler(seed=seed, n_startup_trials=startup, independent_sampler=other)

    def propose(study: Study, trial: FrozenTrial, space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return dict(sampler.sample_relative(study, trial, space))

    return propose


def cma_es(seed: int, startup: int) -> Proposal:
    """CMA-ES, rebuilt from the completed trials each time: Optuna's own keeps its state as a pickle in the study.

    Generations are filled in the order in which trials end, so workers never wait for each other.
    """

    def propose(study: Study, trial: FrozenTrial, space: dict[str, BaseDistribution]) -> dict[str, Any]:
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        done = sorted((t for t in done if math.isfinite(t.values[0])), key=_end)
        if len(done) < startup or len(space) < 2:  # CMA-ES has nothing to adapt in one dimension
            return {}
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        seen = [(_to_unit(t.params, space), sign * t.values[0]) for t in done]
        return _from_unit(_next_point(seen, len(space), seed), space)

    return propose


def _end(trial: FrozenTrial) -> tuple[float, int]:
    return (trial.datetime_complete.timestamp() if trial.datetime_complete else 0.0, trial.number)


def _next_point(seen: list[tuple[np.ndarray, float]], dimensions: int, seed: int) -> np.ndarray:
    """What CMA-ES asks for after these points of the unit cube and their losses, starting around the best of the first."""
    from cmaes import CMA

    size = 4 + int(3 * math.log(dimensions))
    start = min(seen[:size], key=lambda s: s[1])[0]
    bounds = np.tile([0.0, 1.0], (dimensions, 1))
    optimizer = CMA(mean=start, sigma=0.25, bounds=bounds, seed=seed, population_size=size)
    for first in range(0, len(seen) - size + 1, size):
        if optimizer.should_stop():  # converged: the best generation's neighbourhood is all it would repeat
            best = min(seen[:first], key=lambda s: s[1])[0]
            optimizer = CMA(mean=best, sigma=0.25, bounds=bounds, seed=seed, population_size=size)
        optimizer.tell(seen[first : first + size])
    return np.asarray(optimizer.ask())


def _to_unit(params: dict[str, Any], space: dict[str, BaseDistribution]) -> np.ndarray:
    return np.array([_share(float(params[name]), d) for name, d in space.items()])


def _share(value: float, space: BaseDistribution) -> float:
    low, high = _ends(space)
    here = math.log(value) if space.log else value
    return min(1.0, max(0.0, (here - low) / (high - low)))


def _from_unit(point: np.ndarray, space: dict[str, BaseDistribution]) -> dict[str, Any]:
    return {name: _value(float(share), d) for share, (name, d) in zip(point, space.items(), strict=True)}


def _value(share: float, space: BaseDistribution) -> Any:
    low, high = _ends(space)
    here = low + share * (high - low)
    there = math.exp(here) if space.log else here
    if isinstance(space, IntDistribution):
        whole = space.low + round((there - space.low) / space.step) * space.step
        return int(min(space.high, max(space.low, whole)))
    return min(space.high, max(space.low, there))


def _ends(space: BaseDistribution) -> tuple[float, float]:
    assert isinstance(space, IntDistribution | FloatDistribution)
    low, high = float(space.low), float(space.high)
    return (math.log(low), math.log(high)) if space.log else (low, high)
