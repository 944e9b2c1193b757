"""Small frames and jobs for the tests of the data layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kubeautoml.api.form import parse_job
from kubeautoml.api.pod import PodContext, PodJob


def make_pod_job(folder: Path = Path("/nowhere"), *, target: str = "bought", **spec: Any) -> PodJob:
    """The smallest job over `folder`/shop.csv; keywords replace parts of the spec."""
    least = {
        "task": {"type": "TabularClassification", "target": target},
        "dataset": {"train": {"uri": f"file://{folder}/shop.csv"}},
        "output": {"uri": f"file://{folder}/models"},
    }
    metadata = {"name": "shop", "namespace": "default", "uid": "u1"}
    return PodJob.of(parse_job({"metadata": metadata, "spec": {**least, **spec}}))


def make_context(job: PodJob, folder: Path) -> PodContext:
    """A worker's view of the job."""
    return PodContext(job, f"journal://{folder}/study.journal", "pod", "pod-uid", folder / "scratch", 1)


def regression(target: str = "bought") -> dict[str, Any]:
    """The spec's task for numbers."""
    return {"task": {"type": "TabularRegression", "target": target}}


def make_rows(rows: int = 60, **columns: Any) -> pd.DataFrame:
    """Rows as a CSV file gives them, text throughout; keywords replace or add columns."""
    i = np.arange(rows)
    plain = {
        "age": pd.Series(20 + i % 37).astype(str),
        "city": pd.Series(np.array(["Bonn", "Kiel", "Ulm"])[i % 3]),
        "bought": pd.Series(np.where(i * i % 7 < 2, "yes", "no")),
    }
    return pd.DataFrame({**plain, **columns}).astype({c: "str" for c in plain if c not in columns})
