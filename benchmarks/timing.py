"""How long calls take, alike in all benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from kubeautoml_trainer.bundle import Model


def seconds(calls: int, act: Callable[[int], object], warm_up: int = 1) -> list[float]:
    """Of each call; the first ones, which pay for imports, are not counted."""
    for i in range(warm_up):
        act(i)
    taken = []
    for i in range(calls):
        began = time.perf_counter()
        act(i)
        taken.append(time.perf_counter() - began)
    return taken


def row_ms(model: Model, rows: pd.DataFrame, calls: int) -> float:
    """Milliseconds for one raw row, median over calls with up to fifty of them."""
    model.set_threads(1)
    some = [rows.iloc[[k]] for k in range(min(50, len(rows)))]
    return 1000 * float(np.median(seconds(calls, lambda i: model.predict(some[i % len(some)]))))
