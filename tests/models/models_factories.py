"""Small real data sets and contexts for tests of model families."""

import itertools
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Column, Rows, Schema
from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.tasks import task_for

CLS, REG = TaskType.TABULAR_CLASSIFICATION, TaskType.TABULAR_REGRESSION


def make_real(name: str) -> tuple[Rows, Schema]:
    """One of scikit-learn's own sets: wine, breast_cancer (classes), diabetes (a number)."""
    read = getattr(datasets, f"load_{name}")()
    names = [f"x{k}" for k in range(read.data.shape[1])]
    classes = () if name == "diabetes" else tuple(str(c) for c in range(len(read.target_names)))
    schema = Schema("y", tuple(Column(n, ColumnType.NUMBER) for n in names), classes)
    return Rows(pd.DataFrame(read.data, columns=names), read.target.astype(np.int64 if classes else float)), schema


def make_context(schema: Schema, **changes) -> FitContext:
    task = task_for(CLS if schema.classes else REG, schema)
    metric = "LogLoss" if schema.classes else "Rmse"
    values = {"task": task, "metric": metric, "seed": 3, "threads": 1, "deadline": time.monotonic() + 120}
    return FitContext(**(values | changes))


def clock_by_hand(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> Callable[[], float]:
    """`time.monotonic` of one module: every look is a second later. Of the whole process it would also tick for threads that
    earlier tests left.
    """
    looks = itertools.count()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: float(next(looks))))
    return module.time.monotonic


def parts_of(rows: Rows, seed: int = 0) -> tuple[Rows, Rows, Rows]:
    """60 % to train on, 20 % to stop by, 20 % to judge."""
    order = np.random.default_rng(seed).permutation(len(rows))
    a, b = len(rows) * 3 // 5, len(rows) * 4 // 5
    return rows.take(order[:a]), rows.take(order[a:b]), rows.take(order[b:])


def weighted(rows: Rows) -> Rows:
    return Rows(rows.frame, rows.y, np.where(np.arange(len(rows)) % 3 == 0, 1.5, 0.75))
