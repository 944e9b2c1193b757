"""How long a trial will take, learned from those that have ended. Pure functions of the trials.

Per family a line in the logarithms: seconds grow with powers of the parameters that drive the work. The powers begin as the table
below says and move with the evidence; the level is a median, so that one trial that met a busy machine says little.
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
from kubeautoml_trainer.models.space import Parameters, Value
from kubeautoml_trainer.search.plan import Entry
from kubeautoml_trainer.search.relative import relative_cost
from kubeautoml_trainer.search.space import FAMILY, study_parameter

POWERS: Mapping[str, float] = {
    "learning_rate": -0.7,
    "iterations": 1.0,
    "n_estimators": 1.0,
    "trees": 1.0,
    "max_features": 0.7,
    "max_samples": 0.8,
    "num_leaves": 0.4,
    "max_leaves": 0.3,
    "max_depth": 0.8,
    "depth": 1.0,
    "feature_fraction": 0.5,
    "colsample_bylevel": 0.4,
    "epochs": 1.0,
    "layers": 0.7,
    "width": 0.5,
    "members": 0.6,
    "interactions": 0.5,
    "pixels": 1.7,
    "blocks": 0.6,
}
"""Parameter -> the power of it that a fit's time grows with. Guesses to begin with; six trials of a family outweigh them."""

DOUBT = 0.5
"""What of a guess about a family that never ran must fit the time left."""

TRIALS_TO_LEARN = 6
RIDGE = 4.0
"""How many trials, each one e-fold away in a parameter, move its power half-way to what they say; a guess."""


@dataclass(frozen=True)
class _Line:
    """log seconds = level + powers * (log parameters - centre)."""

    level: float
    powers: Mapping[str, float]
    centre: Mapping[str, float]

    def seconds(self, parameters: Parameters) -> float:
        known = {name: _log(parameters.get(name)) for name in self.powers}
        moved = sum(p * (known[n] - self.centre[n]) for n, p in self.powers.items() if not math.isnan(known[n]))
        return float(math.exp(min(50.0, self.level + moved)))


@dataclass(frozen=True)
class Costs:
    """Predicted seconds of trials; nothing is known at first. accelerated: whether networks are trained on an accelerator."""

    lines: Mapping[str, _Line] = field(default_factory=dict)
    accelerated: bool = False

    def of(self, entry: Entry) -> float | None:
        """Seconds of an ordinary trial of this pipeline; None when no trial has ended that could tell."""
        line = self.lines.get(entry.family)
        return line.seconds(entry.parameters) if line is not None else self.of_family(entry.family)

    def of_family(self, family: str) -> float | None:
        """Seconds of the family's middle trial. For one that never ran: half of what the cheapest comparison says, so that a guess
        does not keep it from its chance.
        """
        if family in self.lines:
            return float(math.exp(self.lines[family].level))
        own = self.relative(family)
        scaled = [math.exp(line.level) * own / self.relative(name) for name, line in self.lines.items()]
        return float(DOUBT * min(scaled)) if scaled else None

    def relative(self, family: str) -> float:
        """What a trial costs before anything is known, in trials of LightGBM."""
        return relative_cost(family, accelerated=self.accelerated)


def learn_costs(trials: Sequence[FrozenTrial], folds: int, *, accelerated: bool = False) -> Costs:
    """What the ended trials say. A trial that was cut counts as if it had run all its folds."""
    seen: dict[str, list[tuple[dict[str, Value], float]]] = defaultdict(list)
    for trial in sorted(trials, key=lambda t: t.number):
        seconds = _whole_seconds(trial, folds)
        family = str(trial.params.get(FAMILY, ""))
        if seconds is not None and family:
            prefix = study_parameter(family, "")
            own = {k.removeprefix(prefix): v for k, v in trial.params.items() if k.startswith(prefix)}
            seen[family].append((own, seconds))
    return Costs({family: _line(found) for family, found in seen.items()}, accelerated)


def _whole_seconds(trial: FrozenTrial, folds: int) -> float | None:
    if trial.duration is None:
        return None
    took = float(trial.duration.total_seconds())
    seconds = max(1e-3, took) / float(trial.user_attrs.get(TrialAttr.WORK.value, 1.0))
    if trial.state is TrialState.COMPLETE:
        return seconds
    if trial.state is TrialState.PRUNED:
        if trial.user_attrs.get(TrialAttr.OVERRAN.value):
            return seconds
        done = len(trial.intermediate_values)
        return seconds * folds / min(done, folds) if done else None
    return None


def _line(seen: Sequence[tuple[Mapping[str, Value], float]]) -> _Line:
    y = np.log([seconds for _, seconds in seen])
    names = sorted({n for own, _ in seen for n in own if n in POWERS})
    logs = np.array([[_log(own.get(n)) for n in names] for own, _ in seen]).reshape(len(seen), len(names))
    centre = np.array([float(np.nanmedian(column)) if np.isfinite(column).any() else 0.0 for column in logs.T])
    x = np.nan_to_num(logs - centre, nan=0.0)
    powers = np.array([POWERS[n] for n in names])
    rest = y - x @ powers
    if names and len(seen) >= TRIALS_TO_LEARN:
        rest = rest - statistics.median(rest)
        spread = 3.0 * float(np.median(np.abs(rest))) + 1e-6
        powers = powers + np.linalg.solve(x.T @ x + RIDGE * np.eye(len(names)), x.T @ np.clip(rest, -spread, spread))
    level = statistics.median((y - x @ powers).tolist())
    by_name = dict(zip(names, powers.tolist(), strict=True))
    return _Line(level, by_name, dict(zip(names, centre.tolist(), strict=True)))


def _log(value: Value | None) -> float:
    """NaN where there is no positive number."""
    if value is None or isinstance(value, bool | str) or not value > 0:
        return math.nan
    return math.log(value)
