"""What a model costs: the time for one row, as a client would send it, and its bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.objective import ConstraintMetric, ModelConstraint
from kubeautoml_trainer.data.base import Schema
from kubeautoml_trainer.data.images import data_url
from kubeautoml_trainer.data.values import iso_time
from kubeautoml_trainer.ensemble.base import Cost

MEGABYTE = 1_000_000


def limit_of(constraints: Sequence[ModelConstraint]) -> Cost:
    """spec.constraints as a limit; infinite where none is given, the smallest where several are."""

    def smallest(metric: ConstraintMetric) -> float:
        return min((float(c.max) for c in constraints if c.metric is metric), default=float("inf"))

    return Cost(
        smallest(ConstraintMetric.PREDICT_LATENCY_P99_MS), smallest(ConstraintMetric.MODEL_SIZE_MEGABYTES) * MEGABYTE
    )


def latency_ms(predict: Callable[[pd.DataFrame], object], rows: pd.DataFrame, calls: int, seconds: float) -> float:
    """99th percentile over calls with one row each, in milliseconds; stops early when the time is over.

    The first call is not counted: it pays for imports.
    """
    if not len(rows):
        return float("nan")
    predict(rows.iloc[:1])
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < calls and (len(taken) < 5 or time.perf_counter() < end):
        row = rows.iloc[[len(taken) % len(rows)]]
        started = time.perf_counter()
        predict(row)
        taken.append(time.perf_counter() - started)
    return float(np.percentile(taken, 99) * 1000)


def raw_rows(frame: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Typed rows as a client would send them: dates and booleans in their own form, None for missing."""
    return pd.DataFrame(
        {c.name: pd.Series([_raw(v, c.type) for v in frame[c.name]], dtype=object) for c in schema.features}
    )


def _raw(value: Any, kind: ColumnType) -> Any:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    if kind is ColumnType.BOOLEAN:
        return bool(value)
    if kind is ColumnType.IMAGE:
        return data_url(value)
    if kind is ColumnType.DATETIME:
        return iso_time(value)
    return value
