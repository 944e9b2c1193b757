"""What kind of data a job has, as a few numbers that do not depend on its values' scale: for jobs that start warm."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from kubeautoml.api.dataset import ColumnType
from kubeautoml_trainer.data.base import PreparedData

WEIGHTS: Mapping[str, float] = {
    "logRows": 1.0,
    "logColumns": 1.0,
    "categories": 3.0,
    "texts": 3.0,
    "images": 3.0,
    "missing": 3.0,
    "classes": 5.0,
    "imbalance": 1.0,
}
"""Trait -> what a difference of 1 in it counts. Guesses: a factor e in rows as much as a third of the columns being categories."""


def traits_of(data: PreparedData) -> dict[str, float]:
    """Logarithms of rows and columns, shares of columns and of values, the logarithm of the classes (0 for numbers), and how much
    rarer than an even share the rarest class is, as a logarithm.
    """
    features = data.schema.features
    kinds = [c.type for c in features]
    columns = max(1, len(features))
    traits = {
        "logRows": math.log(max(1, len(data.train))),
        "logColumns": math.log(columns),
        "categories": kinds.count(ColumnType.CATEGORY) / columns,
        "texts": kinds.count(ColumnType.TEXT) / columns,
        "images": kinds.count(ColumnType.IMAGE) / columns,
        "missing": sum(c.missing_fraction for c in features) / columns,
        "classes": 0.0,
        "imbalance": 0.0,
    }
    if data.schema.classes:
        counts = np.bincount(data.train.y, minlength=len(data.schema.classes))
        even = len(data.train) / len(counts)
        traits |= {"classes": math.log(len(counts)), "imbalance": math.log(even / max(1, int(counts.min())))}
    return {name: round(value, 4) for name, value in traits.items()}


def distance(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """How unlike two data sets are, 0 or more; infinite where nothing is known of one.

    >>> distance({"logRows": 7.0, "missing": 0.0}, {"logRows": 8.0, "missing": 0.1})
    1.3
    >>> distance({"logRows": 7.0}, {})
    inf
    """
    shared = [name for name in WEIGHTS if name in one and name in other]
    if not shared:
        return math.inf
    return round(sum(WEIGHTS[name] * abs(one[name] - other[name]) for name in shared), 4)
