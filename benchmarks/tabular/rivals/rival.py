"""What every rival's script shares; runs in the rival's own environment, so it needs pandas and numpy alone.

    python rivals/run_flaml.py FOLDER

FOLDER holds task.json, train.csv, rows.csv (the test's features) and gets predictions.npy and result.json. The test's
target is never in it.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ONE_ROW_CALLS = 20
ONE_ROW_SECONDS = 20.0
BATCH_ROWS = 10_000


@dataclass(frozen=True)
class Task:
    """What is asked: the training rows, the features of the test, the metric, seconds, cores and seed."""

    folder: Path
    train: pd.DataFrame
    rows: pd.DataFrame
    target: str
    kind: str
    budget: int
    cores: int
    seed: int

    @classmethod
    def read(cls, folder: Path) -> Task:
        given = json.loads((folder / "task.json").read_text())
        words, kind, target = given["words"], given["kind"], given["target"]
        types = dict.fromkeys(words, "str")
        if kind != "regression":
            types[target] = "str"
        train, rows = (
            pd.read_csv(folder / f"{name}.csv", keep_default_na=False, na_values=[""], dtype=types)
            for name in ("train", "rows")
        )
        for column in words:
            levels = pd.unique(pd.concat([train[column], rows[column]]).dropna())
            for frame in (train, rows):
                frame[column] = pd.Categorical(frame[column], categories=sorted(levels))
        return cls(folder, train, rows, target, kind, given["budget"], given["cores"], given["seed"])

    @property
    def features(self) -> pd.DataFrame:
        return self.train.drop(columns=self.target)

    @property
    def y(self) -> pd.Series:
        return self.train[self.target]

    @property
    def words(self) -> list[str]:
        """The columns of categories."""
        return [c for c in self.rows.columns if isinstance(self.rows[c].dtype, pd.CategoricalDtype)]

    def pick(self, binary: str, multiclass: str, regression: str) -> str:
        """A library's name for the metric of the shoot-out: ROC AUC, log loss or RMSE."""
        return {"binary": binary, "multiclass": multiclass, "regression": regression}[self.kind]


@dataclass(frozen=True)
class Fitted:
    """A model: `predict` gives (n, classes) probabilities in the order of `classes`, or (n,) values."""

    predict: Callable[[pd.DataFrame], Any]
    classes: list[str] = field(default_factory=list)
    size_bytes: int | None = None
    notes: str = ""


def folder_bytes(folder: Path) -> int:
    """Of all the files below it."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def run(package: str, fit: Callable[[Task], Fitted]) -> None:
    """Fit, predict the test, time the predictions, write both files; an error is written too, and ends with 1."""
    folder = Path(sys.argv[1])
    result: dict[str, Any] = {"package": package, "version": metadata.version(package)}
    try:
        task = Task.read(folder)
        began = time.monotonic()
        fitted = fit(task)
        result["fit_seconds"] = time.monotonic() - began
        predicted = np.asarray(fitted.predict(task.rows), dtype=np.float64)
        np.save(folder / "predictions.npy", predicted)
        result |= {
            "classes": [str(c) for c in fitted.classes],
            "size_bytes": fitted.size_bytes,
            "notes": fitted.notes,
            "one_row_ms": one_row(task, fitted),
            "rows_a_second": rows_a_second(task, fitted),
        }
    except Exception as error:  # noqa: BLE001 - whatever a library raises is its result
        traceback.print_exc()
        result["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    (folder / "result.json").write_text(json.dumps(result))
    sys.stdout.flush()
    sys.exit(1 if "error" in result else 0)


def one_row(task: Task, fitted: Fitted) -> float:
    """Milliseconds to predict one row, median over different rows; the first call is not counted."""
    rows = [task.rows.iloc[[k]] for k in range(min(ONE_ROW_CALLS, len(task.rows)))]
    fitted.predict(rows[0])
    taken: list[float] = []
    for row in rows:
        began = time.perf_counter()
        fitted.predict(row)
        taken.append(time.perf_counter() - began)
        if sum(taken) > ONE_ROW_SECONDS:
            break
    return 1000 * float(np.median(taken))


def rows_a_second(task: Task, fitted: Fitted) -> float:
    """In one batch of the test's rows, repeated where they are few."""
    batch = task.rows.iloc[np.arange(BATCH_ROWS) % len(task.rows)].reset_index(drop=True)
    began = time.perf_counter()
    fitted.predict(batch)
    return len(batch) / (time.perf_counter() - began)
