"""Things in the data that its author should know: duplicates, giveaways, columns no model uses."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from kubeautoml.api.job import ColumnType
from kubeautoml_trainer.data.base import Rows, Schema

GIVEAWAY_AUC = 0.995
"""A single column that ranks two classes this well is more likely a copy of the target than a discovery."""

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
    if len(schema.classes) not in (0, 2):
        return []
    y = train.y[:MAX_ROWS]
    warnings = []
    for column in schema.features:
        if column.type is not ColumnType.NUMBER:
            continue
        x = train.frame[column.name].to_numpy()[:MAX_ROWS]
        known = np.isfinite(x)
        if known.sum() < 20:
            continue
        strength = _auc(x[known], y[known]) if schema.classes else abs(_correlation(x[known], y[known]))
        if strength >= (GIVEAWAY_AUC if schema.classes else 0.9999):
            warnings.append(
                f"column '{column.name}' alone predicts '{schema.target}'; make sure it is known at prediction time"
            )
    return warnings


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
