"""Permutation importance of the ensemble itself on the hold-out: how much worse is it without a column's information?"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from kubeautoml.api.metrics import METRICS, Direction
from kubeautoml_trainer.report.findings import Findings

REPEATS = 5
MAX_ROWS = 2000


@dataclass(frozen=True)
class Importance:
    """Mean loss of the metric when the column is shuffled, and its standard deviation over repeats."""

    column: str
    mean: float
    spread: float


def permutation_importance(findings: Findings, deadline: float, seed: int = 0) -> list[Importance]:
    """Largest first. Columns that the time does not allow are left out; `deadline` is `time.monotonic()`.

    Source: Breiman 2001; over rows the model has never seen, so that it shows what generalises.
    """
    rng = np.random.default_rng(seed)
    rows = findings.data.holdout
    if len(rows) > MAX_ROWS:
        rows = rows.take(np.sort(rng.choice(len(rows), MAX_ROWS, replace=False)))
    task, metric = findings.model.task, findings.job.metric
    sign = 1.0 if METRICS[metric].direction is Direction.MAXIMIZE else -1.0
    base = task.score(metric, rows.y, findings.model.predict_typed(rows.frame), rows.weight)
    found = []
    for name in rows.frame.columns:
        losses = []
        for _ in range(REPEATS):
            if time.monotonic() > deadline:
                break
            order = rng.permutation(len(rows))
            shuffled = rows.frame.assign(**{name: rows.frame[name].to_numpy()[order]})
            losses.append(
                sign * (base - task.score(metric, rows.y, findings.model.predict_typed(shuffled), rows.weight))
            )
        if losses:
            found.append(Importance(str(name), float(np.mean(losses)), float(np.std(losses))))
    return sorted(found, key=lambda i: -i.mean)
