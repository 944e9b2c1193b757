"""Ours: the manifest of a user, `kubeautoml run`, and the bundle it leaves. The wall time of the whole command counts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from rival import Fitted, Task, folder_bytes, run

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def fit(task: Task) -> Fitted:
    from whole_job import run_job

    from kubeautoml_trainer.bundle import load_bundle

    task_type = "TabularRegression" if task.kind == "regression" else "TabularClassification"
    job = run_job(
        task.folder,
        task.train,
        {"type": task_type, "target": task.target},
        task.pick("RocAuc", "LogLoss", "Rmse"),
        task.budget,
        task.seed,
        workers=task.cores,
        variants=["Quality", "Fast"],
        test_fraction="0",  # the shoot-out has a test of its own, and nobody else sets rows aside
    )
    status = job["status"]
    model = load_bundle(status["model"]["uri"])

    def predict(rows: pd.DataFrame) -> Any:
        return model.predict(rows) if task.kind == "regression" else model.predict_proba(rows)

    size = folder_bytes(Path(status["model"]["uri"].removeprefix("file://")))
    return Fitted(predict, [str(c) for c in model.classes or []], size, f"{status['trials']['total']} trials")


if __name__ == "__main__":
    run("kubeautoml", fit)
