"""leaderboard.csv: every completed trial, best first."""

from __future__ import annotations

import json

import pandas as pd

from kubeautoml.api.metrics import METRICS, Direction
from kubeautoml_trainer.report.findings import Findings


def leaderboard(findings: Findings) -> pd.DataFrame:
    """Rank, trial, family, value, seconds, and where they were read: fit and predict seconds, size, weight."""
    records = {r.number: r for r in findings.trials}
    complete = [t for t in findings.finished if t.state.name == "COMPLETE" and t.values]
    sign = -1 if METRICS[findings.job.metric].direction is Direction.MAXIMIZE else 1
    rows = []
    for rank, trial in enumerate(sorted(complete, key=lambda t: (sign * t.values[0], t.number)), start=1):
        record = records.get(trial.number)
        family = str(trial.params.get("family", ""))
        parameters = (
            record.parameters if record else {k.partition(".")[2]: v for k, v in trial.params.items() if "." in k}
        )
        rows.append(
            {
                "rank": rank,
                "trial": trial.number,
                "family": family,
                findings.job.metric: trial.values[0],
                "weight": findings.selection.weights.get(trial.number, 0.0),
                "seconds": round(trial.duration.total_seconds(), 2) if trial.duration else None,
                "fit_seconds": round(record.fit_seconds, 3) if record else None,
                "predict_seconds": round(record.predict_seconds, 4) if record else None,
                "size_bytes": record.size_bytes if record else None,
                "parameters": json.dumps(parameters, default=str),
            }
        )
    return pd.DataFrame(rows)
