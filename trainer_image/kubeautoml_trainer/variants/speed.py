"""What a variant costs when it answers: one row, many rows, bytes."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kubeautoml_trainer.bundle import Model

_CALLS, _CALLS_SECONDS = 200, 0.5
_BATCH_ROWS, _BATCH_SECONDS = 20_000, 1.0


@dataclass(frozen=True)
class Speed:
    """Milliseconds for one raw row in this process, and typed rows a second in a batch; None where it was not measured."""

    p50_ms: float | None = None
    p99_ms: float | None = None
    rows_per_second: float | None = None


def measure(model: Model, raw: pd.DataFrame, typed: pd.DataFrame, threads: int, *, batch: bool) -> Speed:
    """Ask the loaded model. raw: as a client would send rows; typed: the same kind, for batches, repeated until there are many."""
    if not len(raw):
        return Speed()
    model.set_threads(1)
    p50, p99 = _one_row(model, raw)
    return Speed(p50, p99, _batch(model, typed, threads) if batch else None)


def _one_row(model: Model, raw: pd.DataFrame) -> tuple[float, float]:
    rows = [raw.iloc[[k]] for k in range(len(raw))]
    model.predict(rows[0])  # pays for imports
    taken: list[float] = []
    end = time.perf_counter() + _CALLS_SECONDS
    while len(taken) < _CALLS and (len(taken) < 5 or time.perf_counter() < end):
        row = rows[len(taken) % len(rows)]
        began = time.perf_counter()
        model.predict(row)
        taken.append(1000 * (time.perf_counter() - began))
    return float(np.median(taken)), float(np.percentile(taken, 99))


def _batch(model: Model, typed: pd.DataFrame, threads: int) -> float:
    """Grows the batch while it takes no time, so that a slow model is not asked for too much."""
    model.set_threads(threads)
    rows = min(len(typed), 500)
    while True:
        batch = typed.iloc[np.arange(rows) % len(typed)]
        began = time.perf_counter()
        model.predict_rows(batch)
        seconds = max(time.perf_counter() - began, 1e-6)
        if rows >= _BATCH_ROWS or seconds > _BATCH_SECONDS / 8:
            model.set_threads(1)
            return rows / seconds
        rows = min(_BATCH_ROWS, 8 * rows)
