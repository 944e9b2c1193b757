"""What the variants of a model cost against the ensemble, and what they lose: size, time for a row, rows a second.

python benchmarks/variants.py     # first entries of four families, eight folds, on Titanic and Boston housing
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from figures import record
from timing import row_ms, seconds

from bundle.bundle_factories import boston, titanic
from finalize.finalize_factories import make_searched
from kubeautoml.api.metrics import METRICS, Direction
from kubeautoml_trainer import finalize
from kubeautoml_trainer.bundle import Model, load_bundle
from kubeautoml_trainer.data.schema import coerce
from kubeautoml_trainer.search.plan import Entry

ENTRIES = tuple(
    Entry(family, parameters)
    for family, parameters in (
        ("Linear", {}),
        ("LightGBM", {}),
        ("LightGBM", {"extra_trees": True, "num_leaves": 39, "feature_fraction": 0.46}),
        ("CatBoost", {"learning_rate": 0.1, "depth": 5, "border_count": 64}),
        ("ExtraTrees", {"trees": 100}),
    )
)
WANTED = ("Quality", "Balanced", "Fast")
CALLS, BATCH_ROWS = 300, 100_000
THREADS = 2


def main() -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name, target, frame in (
        ("Titanic", "survived", titanic(3000)),
        ("Boston housing", "MEDV", boston(506)),
    ):
        with tempfile.TemporaryDirectory() as folder:
            bench(name, target, frame, Path(folder))
    return 0


def bench(name: str, target: str, frame: pd.DataFrame, folder: Path) -> None:
    """A finished search, its model, and a try of each variant."""
    dataset = {"train": {"uri": f"file://{folder}/train.csv"}, "split": {"folds": 8}}
    searched = make_searched(folder, target, ENTRIES, frame=frame, dataset=dataset, variants=WANTED)
    result = finalize.finalize(searched.context, searched.study)
    models = {v: load_bundle(result.model_uri, variant=v) for v in WANTED}
    sizes = {v.name: v.size_bytes for v in result.variants}
    times = {v: row_ms(m, frame, CALLS) for v, m in models.items()}
    metric = searched.context.job.metric
    for v, model in models.items():
        print(f"{name:16}{v:10}{times[v]:8.3f} ms{sizes[v] / 1e6:9.3f} MB  {metric} {model.metrics[metric]:.5g}")
    record(f"{name}, balanced smaller by", sizes["Quality"] / sizes["Balanced"], "x")
    record(f"{name}, balanced faster by, one row", times["Quality"] / times["Balanced"], "x")
    speeds = {v: rows_a_second(models[v], frame) for v in ("Quality", "Balanced")}
    record(f"{name}, balanced faster by, in batches", speeds["Balanced"] / speeds["Quality"], "x")
    values = [(m.variant.cross_validated, m.metrics[metric]) for m in (models["Quality"], models["Balanced"])]
    for label, k in (("cross-validated", 0), ("hold-out", 1)):
        record(f"{name}, balanced loses, {label}", loss(metric, values[0][k], values[1][k]), "%")
    record(f"{name}, fast: one row p50", times["Fast"], "ms")
    record(f"{name}, fast: rows a second", rows_a_second(models["Fast"], frame), "rows/s")


def loss(metric: str, before: float | None, after: float | None) -> float:
    """Percent of the first value; below 0 for a gain."""
    if before is None or after is None:
        return float("nan")
    sign = 1.0 if METRICS[metric].direction is Direction.MAXIMIZE else -1.0
    return 100 * sign * (before - after) / abs(before)


def rows_a_second(model: Model, frame: pd.DataFrame) -> float:
    """Typed rows, in one batch with all threads."""
    model.set_threads(THREADS)
    typed = coerce(frame, model.schema)
    batch = typed.iloc[np.arange(BATCH_ROWS) % len(typed)].reset_index(drop=True)
    return BATCH_ROWS / float(min(seconds(2, lambda i: model.predict_rows(batch))))


if __name__ == "__main__":
    sys.exit(main())
