"""Evolution over pipelines of different families: (mu + lambda), without a border between generations, so that workers never wait.

The population is the best completed trials, whoever ran them. A child comes from one parent, its parameters changed a little, or
changed to another family, or from two parents of one family. Rates as in TPOT: population 50, mutation 0.9, crossover 0.1. A
generation is as many trials as the population holds; the one before the first is drawn by chance (and holds the portfolio).
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

CROSSOVER = 0.1
NEW_FAMILY = 0.1
"""Share of children that change to a family drawn at random, whose parameters come from its best member, changed, or from
nothing where it has none; a guess."""
BY_CHANCE = 16
"""Trials before breeding begins when no number of generations is asked for, and the budget may end before the first is full."""
STEP = 0.15
"""Standard deviation of a mutation, as a share of the range; a guess."""
TOURNAMENT = 3


class EvolutionarySampler(BaseSampler):  # type: ignore[misc]  # optuna is read without types
    """Children of the best trials so far."""

    def __init__(self, seed: int, population: int = 50, generations: int | None = None) -> None:
        self._population = population
        self._by_chance = population if generations is not None else min(population, BY_CHANCE)
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
        completed = completed_best_first(study)
        if len(completed) < self._by_chance:
            return {}
        population = completed[: self._population]
        if self._rng.random() < NEW_FAMILY:
            return self._of_another_family(completed)
        mother = self._pick(population)
        mates = [t for t in population if t.params.get(FAMILY) == mother.params.get(FAMILY) and t is not mother]
        if not mates or self._rng.random() >= CROSSOVER:
            return dict(mother.params)
        father = self._pick(mates)
        return {
            k: father.params[k] if k in father.params and self._rng.random() < 0.5 else v
            for k, v in mother.params.items()
        }

    def _of_another_family(self, completed: list[FrozenTrial]) -> dict[str, Any]:
        """The best of a family drawn at random, which need not be in the population any more; the families that have none there
        have the chance of one.
        """
        families = sorted({str(t.params[FAMILY]) for t in completed})
        place = int(self._rng.integers(len(families) + 1))
        if place == len(families):
            return {}
        return dict(next(t for t in completed if t.params[FAMILY] == families[place]).params)

    def _pick(self, population: list[FrozenTrial]) -> FrozenTrial:
        """The best of a few drawn at random; the population is sorted."""
        return population[int(self._rng.integers(0, len(population), TOURNAMENT).min())]


def completed_best_first(study: Study) -> list[FrozenTrial]:
    """All that may be parents."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
    scored = [t for t in trials if t.values and math.isfinite(t.values[0]) and FAMILY in t.params]
    return sorted(scored, key=lambda t: (sign * t.values[0], t.number))


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
