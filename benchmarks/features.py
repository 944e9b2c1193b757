"""What the feature layer costs: time to fit and to encode, memory beyond the data, and one row.

    python benchmarks/features.py [rows]

Numbers for `rows` x 50 (default 1,000,000), ten of the columns categories, by LightGBM's recipes; memory as numpy
reports it to tracemalloc, so that of LightGBM's own small sample is left out.
"""

from __future__ import annotations

import sys
import time
import tracemalloc

import numpy as np
import pandas as pd

from kubeautoml.api.dataset import ColumnType
from kubeautoml_trainer.data.base import Column, Rows, Schema
from kubeautoml_trainer.features import Recipe, fit_features
from kubeautoml_trainer.models.lightgbm import RECIPES

NUMBERS, CATEGORIES = 40, 10
ENCODED, SINGLE, ROUNDS = 100_000, 100, 7


def make_table(rows: int) -> tuple[Rows, Schema]:
    """A target with a product, a cross, and a place within a group."""
    rng = np.random.default_rng(0)
    numbers = {f"x{k}": rng.normal(size=rows) for k in range(NUMBERS)}
    places = {f"c{k}": rng.integers(0, 10 * (k + 1), rows) for k in range(CATEGORIES)}
    joint, level = rng.normal(size=(10, 20)), 5 * rng.normal(size=30)
    numbers["x2"] += level[places["c2"]]
    y = numbers["x0"] * numbers["x1"] + joint[places["c0"], places["c1"]] + np.sign(numbers["x2"] - level[places["c2"]])
    words = {n: pd.Series(np.array([f"v{j}" for j in range(100)], dtype=object)[p]) for n, p in places.items()}
    frame = pd.DataFrame({**numbers, **{n: w.astype(object) for n, w in words.items()}})
    kinds = dict.fromkeys(numbers, ColumnType.NUMBER) | dict.fromkeys(places, ColumnType.CATEGORY)
    return Rows(frame, y + rng.normal(size=rows)), Schema("y", tuple(Column(n, k) for n, k in kinds.items()))


def main() -> None:
    rows, schema = make_table(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
    data = rows.frame.memory_usage(deep=False).sum() / 2**20
    print(f"{len(rows):,} x {len(schema.columns)}, {data:.0f} MiB")
    for name, made in RECIPES.items():
        tracemalloc.start()
        began = time.process_time()
        features, encoded = fit_features(Recipe(categories="joined", **made), rows, schema, 0)
        fitted, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        some, one = rows.frame.iloc[:ENCODED], rows.frame.iloc[:1]
        began = time.process_time()
        features.transform(some)
        many = time.process_time() - began
        single = []
        for _ in range(ROUNDS):
            began = time.process_time()
            for _ in range(SINGLE):
                features.transform(one)
            single.append((time.process_time() - began) / SINGLE * 1e3)
        print(
            f"{name:5} {encoded.numbers.shape[1]:3} numbers, fit {fitted:.1f} s, peak {peak:.0f} MiB = {peak / data:.2f} x data, "
            f"{ENCODED:,} rows {many:.2f} s, one row {min(single):.3f} ms"
        )


if __name__ == "__main__":
    main()
