"""Evolution over pipelines of different families: (mu + lambda) without generations, so that workers never wait for each other.

The population is the best completed trials, whoever ran them. A child comes from one parent, its parameters changed a little,
or from two of one family. Rates as in TPOT: population 50, mutation 0.9, crossover 0.1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kubeautoml_trainer.search.space import FAMILY

POPULATION = 50
CROSSOVER = 0.1
NEW_FAMILY = 0.1
"""Share of children that are made from nothing, in a family drawn at random; a guess."""
STEP = 0.15
"""Standard deviation of a mutation, as a share of the range; a guess."""
TOURNAMENT = 3


class EvolutionarySampler(BaseSampler):  # type: ignore[misc]  # optuna is read without types
    """Children of the best trials so far."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._random = RandomSampler(seed=seed)
        self._child: dict[str, Any] = {}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._child = self._breed(study)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The parent's value, perhaps changed; what the parent does not have is drawn at random."""
        if param_name not in self._child:
            return self._random.sample_independent(study, trial, param_name, param_distribution)
        value = self._child[param_name]
        if param_name == FAMILY or self._rng.random() >= self._rate():
            return value
        return mutated(value, param_distribution, self._rng)

    def _rate(self) -> float:
        """On average two parameters change."""
        return min(1.0, 2.0 / max(1, len(self._child) - 1))

    def _breed(self, study: Study) -> dict[str, Any]:
        population = _population(study)
        if not population or self._rng.random() < NEW_FAMILY:
            return {}
        mother = self._pick(population)
        mates = [t for t in population if t.params.get(FAMILY) == mother.params.get(FAMILY) and t is not mother]
        if not mates or self._rng.random() >= CROSSOVER:
            return dict(mother.params)
        father = self._pick(mates)
        return {
            k: father.params[k] if k in father.params and self._rng.random() < 0.5 else v
            for k, v in mother.params.items()
        }

    def _pick(self, population: list[FrozenTrial]) -> FrozenTrial:
        """The best of a few drawn at random; the population is sorted."""
        return population[int(self._rng.integers(0, len(population), TOURNAMENT).min())]


def _population(study: Study) -> list[FrozenTrial]:
    """The best completed trials, best first."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
    scored = [t for t in trials if t.values and math.isfinite(t.values[0]) and FAMILY in t.params]
    return sorted(scored, key=lambda t: (sign * t.values[0], t.number))[:POPULATION]


def mutated(value: Any, space: BaseDistribution, rng: np.random.Generator) -> Any:
    """A neighbour of a value: a step in the (logarithmic) range, or another choice."""
    if isinstance(space, CategoricalDistribution):
        return space.choices[int(rng.integers(len(space.choices)))]
    assert isinstance(space, IntDistribution | FloatDistribution)
    low, high = (math.log(b) if space.log else float(b) for b in (space.low, space.high))
    here = (math.log(value) if space.log else float(value)) + rng.normal() * STEP * (high - low)
    here = min(high, max(low, here))
    there = math.exp(here) if space.log else here
    if isinstance(space, IntDistribution):
        whole = space.low + round((there - space.low) / space.step) * space.step
        return int(min(space.high, max(space.low, whole)))
    return min(space.high, max(space.low, there))
