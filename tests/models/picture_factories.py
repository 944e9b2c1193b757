"""Small tables with a column of pictures, for tests of the families that look at them."""

import time

import numpy as np
import pandas as pd

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Column, Rows, Schema
from kubeautoml_trainer.models.base import DataShape, FitContext
from kubeautoml_trainer.tasks import task_for

CLS, REG = TaskType.TABULAR_CLASSIFICATION, TaskType.TABULAR_REGRESSION


def make_picture_schema(classes: int = 3, side: int = 8, channels: int = 1, *, beside: bool = False) -> Schema:
    picture = Column("photo", ColumnType.IMAGE, height=side, width=side, channels=channels)
    others = (Column("size", ColumnType.NUMBER), Column("colour", ColumnType.CATEGORY)) if beside else ()
    return Schema("t", (picture, *others), tuple("abc"[:classes]))


def make_picture_rows(
    classes: int = 3, n: int = 90, side: int = 8, channels: int = 1, seed: int = 0, *, beside: bool = False
) -> Rows:
    """Noise with a light top, a light left or neither; for numbers, the lightness of the top counts. A row's own size says nothing."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, max(2, classes), n)
    x = rng.integers(0, 120, (n, side, side, channels))
    light = rng.integers(60, 130, n)
    for k in range(n):
        if kind[k] == 0:
            x[k, : side // 2] += light[k]
        elif kind[k] == 1:
            x[k, :, : side // 2] += light[k]
    photos = np.empty(n, dtype=object)
    for k in range(n):
        photos[k] = x[k].astype(np.uint8)
    frame = pd.DataFrame({"photo": pd.Series(photos, dtype=object)})
    if beside:
        frame["size"] = rng.normal(size=n)
        frame["colour"] = pd.Series(rng.choice(["red", "blue"], n), dtype=object)
    y = kind.astype(np.int64) if classes else x[:, : side // 2].mean(axis=(1, 2, 3)) + 0.5 * rng.normal(size=n)
    return Rows(frame, y)


def make_picture_context(schema: Schema, **changes) -> FitContext:
    task = task_for(CLS if schema.classes else REG, schema)
    values = {
        "task": task,
        "metric": "Accuracy" if schema.classes else "Rmse",
        "seed": 3,
        "threads": 1,
        "deadline": time.monotonic() + 1000,
    }
    return FitContext(**(values | changes))


def make_picture_shape(schema: Schema, rows: int = 90, **changes) -> DataShape:
    picture = schema.columns[0]
    given = {
        "task": CLS if schema.classes else REG,
        "rows": rows,
        "features": len(schema.columns),
        "categories": sum(c.type is ColumnType.CATEGORY for c in schema.columns),
        "texts": 0,
        "outputs": max(1, len(schema.classes)),
        "images": 1,
        "side": picture.height,
        "channels": picture.channels,
    }
    return DataShape(**(given | changes))
