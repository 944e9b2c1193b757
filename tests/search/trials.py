"""Trials of a study that never ran: what decisions are made from."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

START = datetime(2026, 1, 1)


def make_trial(
    number: int,
    family: str = "A",
    value: float | None = None,
    seconds: float = 1.0,
    state: TrialState = TrialState.COMPLETE,
    attrs: dict[str, Any] | None = None,
    folds_done: int = 0,
    **parameters: float,
) -> FrozenTrial:
    """One trial a second begins; parameters are numbers of the family."""
    params = {"family": family, **{f"{family}.{name}": v for name, v in parameters.items()}}
    spaces: dict[str, Any] = {name: FloatDistribution(1e-9, 1e9) for name in params}
    spaces["family"] = CategoricalDistribution(("A", "B", "C"))
    ended = START + timedelta(seconds=number + seconds) if state.is_finished() else None
    trial = optuna.trial.create_trial(state=state, value=value, params=params, distributions=spaces)
    return FrozenTrial(
        number, state, value, START + timedelta(seconds=number), ended, trial.params, trial.distributions,
        attrs or {}, {}, dict.fromkeys(range(folds_done), 0.0), number,
    )  # fmt: skip
