"""What a finished model promises beside its score, on rows that no part of the job has seen.

    python benchmarks/reliability.py --sets titanic,hr,boston --budget 60

A whole job a data set, with the variants Quality, Balanced and Fast and intervals of 90 %. Calibration error: expected calibration
error of the probability of the likeliest class in ten bins of equal numbers of rows (Naeini et al. 2015; Nixon et al. 2019); beside it
what a perfectly calibrated model would show on as many rows by chance. Rows of all data sets are pooled for the figures that count:
one set of 127 rows says little about two points of coverage.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent / "tabular"))

from figures import record
from scores import loss
from sets import SETS, DataSet
from timing import row_ms, seconds
from whole_job import run_job

from kubeautoml_trainer.bundle import Model, load_bundle

DEFAULT_SETS = ("titanic", "german", "hr", "fair", "digits", "boston", "diabetes", "computers")
METRICS = {"binary": "RocAuc", "multiclass": "LogLoss", "regression": "Rmse"}
VARIANTS = ["Quality", "Balanced", "Fast"]
COVERAGE, BINS, DRAWS, CALLS, BATCH_ROWS = 0.9, 10, 200, 100, 20_000
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """One data set. losses, row_ms, sizes, rows_a_second: by variant. covered: bool (test rows,). confidence, hit: (test rows,), empty
    for numbers.
    """

    set: str
    kind: str
    losses: dict[str, float]
    row_ms: dict[str, float]
    sizes: dict[str, int]
    rows_a_second: dict[str, float]
    covered: npt.NDArray[np.bool_]
    confidence: FloatArray
    hit: npt.NDArray[np.bool_]
    wall_seconds: float

    @property
    def balanced_loss_percent(self) -> float:
        """Of the metric itself: of the area under the curve for two classes, else of the loss."""
        quality, balanced = self.losses["Quality"], self.losses["Balanced"]
        return 100 * (balanced - quality) / (1 - quality if self.kind == "binary" else quality)


def measure(data: DataSet, seed: int, budget: int) -> Measured:
    train, test = data.split(seed)
    task = {"type": f"Tabular{'Regression' if data.kind == 'regression' else 'Classification'}", "target": data.target}
    objective = {"intervals": {"coverage": str(COVERAGE)}}
    with tempfile.TemporaryDirectory() as folder:
        job = run_job(
            Path(folder), train, task, METRICS[data.kind], budget, seed, variants=VARIANTS, objective=objective
        )
        models = {v: load_bundle(job["status"]["model"]["uri"], variant=v) for v in VARIANTS}
        sizes = {v["name"]: int(v["sizeBytes"]) for v in job["status"]["model"]["variants"]}
        return measured(data, test, models, sizes, job)


def measured(data: DataSet, test: pd.DataFrame, models: dict[str, Model], sizes: dict[str, int], job: Any) -> Measured:
    truth, rows = test[data.target].to_numpy(), test.drop(columns=data.target)
    classes = list(models["Quality"].classes)
    predicted = {v: np.asarray(m.predict_proba(rows) if classes else m.predict(rows), float) for v, m in models.items()}
    said = models["Quality"].predict_frame(rows)
    best = predicted["Quality"].argmax(axis=1) if classes else np.empty(0, np.intp)
    return Measured(
        data.name,
        data.kind,
        {v: loss(data.kind, truth, p, classes) for v, p in predicted.items()},
        {v: row_ms(m, rows, CALLS) for v, m in models.items()},
        sizes,
        {v: rows_a_second(m, rows) for v, m in models.items()},
        covered(said, data.target, truth),
        predicted["Quality"].max(axis=1) if classes else np.empty(0),
        np.array([classes[k] == t for k, t in zip(best, truth, strict=True)]) if classes else np.empty(0, bool),
        job["wall_seconds"],
    )


def covered(said: pd.DataFrame, target: str, truth: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Whether each true value lies in its interval, or in its set of classes."""
    if f"{target}_set" in said:
        return np.array([t in json.loads(s) for t, s in zip(truth, said[f"{target}_set"], strict=True)])
    number = truth.astype(float)
    return np.asarray((said[f"{target}_low"] <= number) & (number <= said[f"{target}_high"]), dtype=bool)


def rows_a_second(model: Model, rows: pd.DataFrame) -> float:
    """Raw rows, in one batch with two threads."""
    model.set_threads(2)
    batch = rows.iloc[np.arange(BATCH_ROWS) % len(rows)].reset_index(drop=True)
    return BATCH_ROWS / float(min(seconds(1, lambda i: model.predict(batch))))


def calibration_error(confidence: FloatArray, hit: npt.NDArray[np.bool_]) -> float:
    """Mean distance of what was promised and what came true, over bins of equally many rows."""
    order = np.argsort(confidence, kind="stable")
    bins = np.array_split(order, min(BINS, max(1, len(order))))
    return float(sum(abs(confidence[b].mean() - hit[b].mean()) * len(b) for b in bins if len(b)) / max(1, len(order)))


def by_chance(confidence: FloatArray) -> float:
    """The calibration error that a perfectly calibrated model would show on these rows, mean over draws."""
    rng = np.random.default_rng(0)
    return float(
        np.mean([calibration_error(confidence, rng.random(len(confidence)) < confidence) for _ in range(DRAWS)])
    )


def show(found: list[Measured]) -> None:
    print(
        f"{'set':<14}{'Quality':>10}{'Balanced':>10}{'Fast':>10}{'faster':>8}{'smaller':>8}{'fast ms':>9}{'fast rows/s':>13}"
        f"{'covered':>9}{'ECE':>8}{'by chance':>10}{'wall s':>8}"
    )
    for m in found:
        ece = (
            f"{calibration_error(m.confidence, m.hit):>8.3f}{by_chance(m.confidence):>10.3f}"
            if len(m.hit)
            else " " * 18
        )
        print(
            f"{m.set:<14}{m.losses['Quality']:>10.4g}{m.losses['Balanced']:>10.4g}{m.losses['Fast']:>10.4g}"
            f"{m.row_ms['Quality'] / m.row_ms['Balanced']:>8.1f}{m.sizes['Quality'] / m.sizes['Balanced']:>8.1f}"
            f"{m.row_ms['Fast']:>9.2f}{m.rows_a_second['Fast']:>13.0f}{m.covered.mean():>9.3f}{ece}{m.wall_seconds:>8.1f}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=lambda text: text.split(","), default=list(DEFAULT_SETS))
    parser.add_argument("--budget", type=int, default=60, help="seconds for each job")
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()
    found = []
    for name in args.sets:
        found.append(measure(SETS[name], args.seed, args.budget))
        show(found[-1:])
    print()
    show(found)
    numbers = [m for m in found if m.kind == "regression"]
    classes = [m for m in found if m.kind != "regression"]
    if classes:
        confidence, hit = np.concatenate([m.confidence for m in classes]), np.concatenate([m.hit for m in classes])
        record("calibration error, all rows", calibration_error(confidence, hit))
        excess = [calibration_error(m.confidence, m.hit) - by_chance(m.confidence) for m in classes]
        record("calibration error beyond chance, worst set", max(excess))
        record("truth in the set of classes", 100 * float(np.concatenate([m.covered for m in classes]).mean()), "%")
    if numbers:
        record("truth in the interval", 100 * float(np.concatenate([m.covered for m in numbers]).mean()), "%")
    losses = [m.balanced_loss_percent for m in found]
    faster = [m.row_ms["Quality"] / m.row_ms["Balanced"] for m in found]
    smaller = [m.sizes["Quality"] / m.sizes["Balanced"] for m in found]
    record("balanced loses, mean over sets", float(np.mean(losses)), "%")
    record("balanced loses, worst set", max(losses), "%")
    record("balanced faster by, one row, median", float(np.median(faster)), "x")
    record("balanced faster by, one row, least", min(faster), "x")
    record("balanced smaller by, median", float(np.median(smaller)), "x")
    record("balanced smaller by, least", min(smaller), "x")
    record("fast: one row, slowest set", max(m.row_ms["Fast"] for m in found), "ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
