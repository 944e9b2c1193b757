"""`leaderboard.csv`: all completed trials, best first, and behind them the variants of the model."""

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
    "variant",
    "predict_ms",
    "rows_per_second",
)
"""Of a variant: `predict_ms` for one row, `rows_per_second` in a batch. Of a trial: `predict_seconds`, see `TrialRecord`."""


SECOND_LEVEL = "SecondLevel"
"""In place of a family: what `ensemble.stacking` made of several trials."""


@dataclass(frozen=True)
class Ranked:
    """One completed trial, or the second level. What is not known of it, because its artifacts are gone or were not read, is None."""

    trial: int | None
    """None for the second level."""
    family: str
    value: float
    holdout_value: float | None = None
    weight: float = 0.0
    fit_seconds: float | None = None
    predict_seconds: float | None = None
    size_bytes: int | None = None
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True)
class RankedVariant:
    """One form of the model. `value`: cross-validated, where that was measured or follows; speeds where there was time."""

    name: str
    families: tuple[str, ...]
    models: int
    """Fitted pipelines in it."""
    value: float | None
    holdout_value: float | None
    fit_seconds: float
    p50_ms: float | None
    p99_ms: float | None
    rows_per_second: float | None
    size_bytes: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """As in metrics.json."""
        return {
            "name": self.name,
            "families": list(self.families),
            "models": self.models,
            "crossValidated": self.value,
            "holdout": self.holdout_value,
            "fitSeconds": round(self.fit_seconds, 3),
            "predictLatencyP50Ms": _rounded(self.p50_ms),
            "predictLatencyP99Ms": _rounded(self.p99_ms),
            "rowsPerSecond": _rounded(self.rows_per_second),
            "sizeBytes": self.size_bytes,
            "notes": list(self.notes),
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def leaderboard_csv(
    ranked: Sequence[Ranked], variants: Sequence[RankedVariant] = (), second: Ranked | None = None
) -> str:
    """Comma-separated, one header line, parameters as JSON; `ranked` is best first. The second level, which has no rank, and the
    variants come behind the trials.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    rows: list[tuple[int | str, Ranked]] = list(enumerate(ranked, 1))
    for rank, t in [*rows, *([] if second is None else [("", second)])]:
        writer.writerow(
            [
                rank,
                "" if t.trial is None else t.trial,
                t.family,
                _number(t.value),
                _number(t.holdout_value),
                _number(t.weight),
                _number(t.fit_seconds, 4),
                _number(t.predict_seconds, 4),
                "" if t.size_bytes is None else t.size_bytes,
                parameters_text(t.parameters),
                "",
                "",
                "",
            ]
        )
    for v in variants:
        writer.writerow(
            [
                "",
                "",
                "+".join(v.families),
                _number(v.value),
                _number(v.holdout_value),
                "",
                _number(v.fit_seconds, 4),
                "",
                v.size_bytes,
                "",
                v.name,
                _number(v.p50_ms, 4),
                _number(v.rows_per_second, 4),
            ]
        )
    return out.getvalue()


def parameters_text(parameters: Mapping[str, object]) -> str:
    """JSON on one line."""
    return json.dumps(dict(parameters), sort_keys=True, ensure_ascii=False)


def _number(value: float | None, digits: int = 8) -> str:
    return "" if value is None or value != value else f"{value:.{digits}g}"
