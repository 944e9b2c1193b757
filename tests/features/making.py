"""Rows and schemas for the tests of features."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kubeautoml.api.dataset import ColumnType
from kubeautoml_trainer.data.base import Column, Rows, Schema


def make_rows(y: np.ndarray | None = None, groups: np.ndarray | None = None, **columns) -> Rows:
    """Typed rows; columns with a text in them become `object`."""
    n = len(next(iter(columns.values())))
    series = {}
    for name, values in columns.items():
        text = any(isinstance(v, str) for v in values) or np.asarray(values).dtype.kind == "O"
        series[name] = pd.Series(list(values) if text else values, dtype=object if text else float)
    return Rows(pd.DataFrame(series), np.arange(n) % 2 if y is None else y, groups=groups)


def make_schema(rows: Rows, classes: int = 2, **kinds: ColumnType) -> Schema:
    """Numbers and categories by dtype, other kinds by name. classes: 0 for numbers."""

    def kind(name: str) -> ColumnType:
        guess = ColumnType.CATEGORY if rows.frame[name].dtype == object else ColumnType.NUMBER
        return kinds.get(name, guess)

    return Schema("t", tuple(Column(n, kind(n)) for n in rows.frame), tuple("abcdefghijkl"[:classes]))


def words(rng: np.random.Generator, levels: int, n: int, prefix: str = "v") -> np.ndarray:
    """object (n,) of that many levels."""
    return np.array([f"{prefix}{k}" for k in rng.integers(0, levels, n)], dtype=object)


def positions(values: np.ndarray) -> np.ndarray:
    """The numbers in the words that `words` made."""
    return np.array([int(v[1:]) for v in values])
