"""`leaderboard.csv`: all completed trials, best first."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kubeautoml_trainer.models.space import Parameters

COLUMNS = (
    "rank",
    "trial",
    "family",
    "value",
    "holdout_value",
    "ensemble_weight",
    "fit_seconds",
    "predict_seconds",
    "size_bytes",
    "parameters",
)


@dataclass(frozen=True)
class Ranked:
    """One completed trial. What is not known of it, because its artifacts are gone or were not read, is None."""

    trial: int
    family: str
    value: float
    holdout_value: float | None = None
    weight: float = 0.0
    fit_seconds: float | None = None
    predict_seconds: float | None = None
    size_bytes: int | None = None
    parameters: Parameters = field(default_factory=dict)


def leaderboard_csv(ranked: Sequence[Ranked]) -> str:
    """Comma-separated, one header line, parameters as JSON; `ranked` is best first."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for rank, t in enumerate(ranked, 1):
        writer.writerow(
            [
                rank,
                t.trial,
                t.family,
                _number(t.value),
                _number(t.holdout_value),
                _number(t.weight),
                _number(t.fit_seconds, 4),
                _number(t.predict_seconds, 4),
                "" if t.size_bytes is None else t.size_bytes,
                parameters_text(t.parameters),
            ]
        )
    return out.getvalue()


def parameters_text(parameters: Mapping[str, object]) -> str:
    """JSON on one line."""
    return json.dumps(dict(parameters), sort_keys=True, ensure_ascii=False)


def _number(value: float | None, digits: int = 8) -> str:
    return "" if value is None or value != value else f"{value:.{digits}g}"
