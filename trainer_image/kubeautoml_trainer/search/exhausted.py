"""Whether there is nothing more to try: the generations are bred, or the portfolio is all there is and has been taken."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from kubeautoml.api.search import Sampler, SamplerType
from kubeautoml.api.trials import TrialAttr
from kubeautoml_trainer.search.plan import SearchPlan


def trials_to_breed(sampler: Sampler) -> int | None:
    """Completed trials that end an evolution: the population, and as many again for each generation; None for no end.

    >>> trials_to_breed(Sampler(type="Evolutionary", population=50, generations=5))
    300
    """
    if sampler.type is not SamplerType.EVOLUTIONARY or sampler.generations is None:
        return None
    return sampler.population * (sampler.generations + 1)


def is_exhausted(trials: Sequence[FrozenTrial], waiting: int, plan: SearchPlan, to_breed: int | None) -> bool:
    """Whether all generations are complete; or only the portfolio counts and all of it has been taken. waiting: queued retries."""
    if to_breed is not None and sum(t.state is TrialState.COMPLETE for t in trials) >= to_breed:
        return True
    first_attempts = sum(TrialAttr.RETRY_OF not in t.user_attrs for t in trials)
    return plan.only_portfolio and first_attempts >= len(plan.portfolio) and not waiting


def is_almost_bred(trials: Sequence[FrozenTrial], waiting: int, to_breed: int | None) -> bool:
    """Whether the trials that others run are all that the generations still lack; whoever runs the last goes on if it fails."""
    if to_breed is None or waiting:
        return False
    return sum(t.state in (TrialState.COMPLETE, TrialState.RUNNING) for t in trials) >= to_breed
