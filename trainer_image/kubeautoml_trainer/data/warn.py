"""Things in the data that its author should know: duplicates, giveaways, columns no model uses."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from kubeautoml.api.dataset import ColumnType
from kubeautoml_trainer.data.base import Rows, Schema

GIVEAWAY_AUC = 0.995
"""A single column that ranks two classes this well is more likely a copy of the target than a discovery."""

GIVEAWAY_CORRELATION = 0.9999
MAX_TELLING_LEVELS = 20
"""Beyond so many levels (or two a class), a category that tells the class is no surprise; a guess."""

DUPLICATE_SHARE = 0.05
MAX_ROWS = 100_000
"""Rows looked at; the checks are about shares."""


def data_warnings(raw: pd.DataFrame, train: Rows, schema: Schema) -> list[str]:
    """One sentence each; none is an error."""
    return [*_unused(schema), *_duplicates(raw), *_giveaways(train, schema)]


def _unused(schema: Schema) -> list[str]:
    words = {ColumnType.IDENTIFIER: "look like identifiers", ColumnType.CONSTANT: "have one value or none"}
    found = {kind: [c.name for c in schema.columns if c.type is kind] for kind in words}
    return [f"columns {', '.join(names[:5])} {words[kind]} and are not used" for kind, names in found.items() if names]


def _duplicates(raw: pd.DataFrame) -> list[str]:
    sample = raw.head(MAX_ROWS)
    try:
        share = float(sample.duplicated().mean())
    except TypeError:  # a column of lists or objects
        return []
    if share <= DUPLICATE_SHARE:
        return []
    return [
        f"{share:.0%} of the rows are copies of others; scores are too good where copies fall on both sides of a split"
    ]


def _giveaways(train: Rows, schema: Schema) -> list[str]:
    y = train.y[:MAX_ROWS]
    return [
        f"column '{column.name}' alone predicts '{schema.target}'; make sure it is known at prediction time"
        for column in schema.features
        if _gives_away(train.frame[column.name].to_numpy()[:MAX_ROWS], y, len(schema.classes))
    ]


def _gives_away(x: np.ndarray, y: np.ndarray, classes: int) -> bool:
    known = np.isfinite(x) if x.dtype != object else np.array([v is not None for v in x])
    x, y = x[known], y[known]
    if len(y) < 20 or len(np.unique(y)) < 2:
        return False
    if x.dtype != object and classes in (0, 2):
        return abs(_correlation(x, y)) >= GIVEAWAY_CORRELATION if classes == 0 else _auc(x, y) >= GIVEAWAY_AUC
    return classes > 0 and _share_told(x, y, classes) == 1.0


def _share_told(x: np.ndarray, y: np.ndarray, classes: int) -> float:
    """Share of rows whose class is the commonest of their level; 0 with so many levels that this says nothing."""
    codes, levels = pd.factorize(x)
    if len(levels) > max(2 * classes, MAX_TELLING_LEVELS):
        return 0.0
    table = np.bincount(codes * classes + y, minlength=len(levels) * classes).reshape(len(levels), classes)
    return float(table.max(axis=1).sum() / len(y))


def _auc(x: np.ndarray, y: np.ndarray) -> float:
    positives = int((y == 1).sum())
    negatives = len(y) - positives
    if not positives or not negatives:
        return 0.5
    ranks = rankdata(x)
    auc = (ranks[y == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives)
    return float(max(auc, 1 - auc))


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    return 0.0 if np.ptp(x) == 0 or np.ptp(y) == 0 else float(np.corrcoef(x, y)[0, 1])
