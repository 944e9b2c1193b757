"""Things in the data that its author should know, beside leaks (`leaks.py`) and change (`drift.py`): columns that say next to nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kubeautoml.api.dataset import ColumnType, Split, SplitType
from kubeautoml_trainer.data.base import PATH, Column, Rows, Schema
from kubeautoml_trainer.data.drift import holdout_drift, target_drift
from kubeautoml_trainer.data.leaks import leak_warnings

MISSING = 0.95
ALMOST_ALL = 0.999
"""Share of one value from which a column is almost constant."""
MIN_ROWS = 50
NAMES = 3


def data_warnings(
    train: Rows,
    fold: np.ndarray,
    holdout: Rows,
    schema: Schema,
    *,
    kind: SplitType | None,
    time: np.ndarray | None,
    split: Split,
) -> list[str]:
    """One sentence each, those about scores that mislead first; none is an error.

    Args:
        fold: int16 (len(train),), as in `PreparedData.fold`.
        kind: how the hold-out was split off; None for a test file.
        time: (len(train),), numbers that grow with time, for a split by time.
        split: spec.dataset.split, for the columns it names.
    """
    return [
        *leak_warnings(train, fold, holdout, schema, split),
        *holdout_drift(train, holdout, schema, kind, split.time_column),
        *target_drift(train, schema, time),
        *column_warnings(train, schema),
    ]


def column_warnings(train: Rows, schema: Schema) -> list[str]:
    """Columns that are not used, and columns that hold next to nothing."""
    words = {ColumnType.IDENTIFIER: "look like identifiers", ColumnType.CONSTANT: "have one value or none"}
    has_images = any(c.type is ColumnType.IMAGE for c in schema.features)
    # the path that a folder's rows are known by is what it is meant to be
    known = {PATH} if has_images else set()
    unused = {kind: [c.name for c in schema.columns if c.type is kind and c.name not in known] for kind in words}
    said = [f"columns {_listed(names)} {words[kind]} and are not used" for kind, names in unused.items() if names]
    empty = [c for c in schema.features if c.missing_fraction > MISSING]
    if empty:
        shares = [f"{c.name} ({c.missing_fraction:.1%})" for c in empty]
        said.append(
            f"columns {_listed(shares)} are missing in nearly all rows; leave them out unless a gap says something"
        )
    if len(train) >= MIN_ROWS:
        even = [
            c.name
            for c in schema.features
            if c.type is not ColumnType.IMAGE and _is_almost_constant(c, train.frame[c.name])
        ]
        if even:
            said.append(
                f"columns {_listed(even)} have one value in at least {ALMOST_ALL:.1%} of the rows; leave them out unless "
                "the rare value matters"
            )
    return said


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(names[:NAMES]) + more


def _is_almost_constant(column: Column, values: pd.Series) -> bool:
    """Of the values that are there; what is missing nearly everywhere has a sentence of its own."""
    # so many different values cannot leave room for one that is nearly all
    if column.missing_fraction > MISSING or column.unique > 2 + (1 - ALMOST_ALL) * len(values):
        return False
    known = values.dropna()
    return bool(len(known) >= MIN_ROWS and known.value_counts().iloc[0] >= ALMOST_ALL * len(known))
