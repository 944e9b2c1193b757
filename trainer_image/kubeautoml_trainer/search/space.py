"""A family's space as the study sees it: distributions, names `<Family>.<parameter>`, and calls to suggest."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from kubeautoml_trainer.models.space import Choice, Float, Int, Space
from kubeautoml_trainer.search.plan import Entry, SearchPlan, applies, contains

FAMILY = "family"
"""The study's parameter that holds the family."""


def study_parameter(family: str, name: str) -> str:
    """A family's parameter as the study names it."""
    return f"{family}.{name}"


def distribution(spec: Float | Int | Choice) -> BaseDistribution:
    """The study's form of a description."""
    if isinstance(spec, Choice):
        return CategoricalDistribution(spec.choices)
    if isinstance(spec, Int):
        return IntDistribution(spec.low, spec.high, log=spec.log, step=1 if spec.log else spec.step)
    return FloatDistribution(spec.low, spec.high, log=spec.log)


def family_distribution(plan: SearchPlan) -> CategoricalDistribution:
    """The choice of the family; the same in every worker, as Optuna demands."""
    return CategoricalDistribution(tuple(plan.families))


def unconditional(family: str, space: Space, *, only_numbers: bool = False) -> dict[str, BaseDistribution]:
    """Parameters that every trial of a family has, as the study names them."""
    return {
        study_parameter(family, name): distribution(spec)
        for name, spec in space.items()
        if not spec.when and not (only_numbers and isinstance(spec, Choice))
    }


def suggest(trial: optuna.Trial, plan: SearchPlan, entry: Entry | None) -> Entry:
    """The pipeline of a trial. What of a portfolio entry lies in the search space becomes a parameter of the study, so that
    samplers learn from it; the rest of the entry is used all the same.
    """
    family = str(trial._suggest(FAMILY, family_distribution(plan)))
    parameters: dict[str, Any] = {}
    for name, spec in plan.spaces[family].items():
        is_fixed = entry is not None and (name not in entry.parameters or not contains(spec, entry.parameters[name]))
        if is_fixed or not applies(spec.when, entry.parameters if entry else parameters):
            continue
        parameters[name] = trial._suggest(study_parameter(family, name), distribution(spec))
    return Entry(family, parameters if entry is None else dict(entry.parameters))
