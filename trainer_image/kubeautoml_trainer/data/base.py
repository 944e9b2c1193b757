"""Values of the data layer: what a column is, what the data is, and the data ready for trials."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from kubeautoml.api.dataset import ColumnType

PATH = "path"
"""Column of the paths by which the rows of a folder are known."""


@dataclass(frozen=True)
class Column:
    """One feature column, as the training rows showed it.

    `levels` (Category, Boolean: the training levels as text, most frequent first, at most 1,000), `low`, `high`, `mean`
    (Number: finite values; Datetime: Unix seconds), `missing_fraction` and `unique` describe the training rows;
    `example` is one value as text (levels and examples are the only data of the user in it).
    """

    name: str
    type: ColumnType
    missing_fraction: float = 0.0
    unique: int = 0
    levels: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    is_integer: bool = False
    example: str | None = None
    missing_words: tuple[str, ...] = ()
    """Number: lower-case words that the training rows held in place of numbers, such as "unknown"; they mean missing."""
    day_first: bool = False
    """Datetime: 03/04/2020 is the third of April."""
    height: int | None = None
    """Image: pixels of the stored size, to which every image of the column is brought."""
    width: int | None = None
    channels: int | None = None
    """Image: 1 (grey) or 3 (red, green, blue)."""


@dataclass(frozen=True)
class Schema:
    """The columns a model takes, in order, and the target it gives. Stored in bundles; the server's only truth.

    `columns` holds all columns of the file but the target, the weight and the ignored ones, also those no model uses
    (Identifier, Constant). `classes` are the target's labels as text, in the order of the probability columns; empty for numbers.
    """

    target: str
    columns: tuple[Column, ...]
    classes: tuple[str, ...] = ()
    positive_class: str | None = None
    quantiles: tuple[float, ...] = ()
    """Of a number: the quantiles that are predicted, rising; empty for its mean."""

    @property
    def features(self) -> tuple[Column, ...]:
        """Columns a model may use."""
        unused = (ColumnType.IDENTIFIER, ColumnType.CONSTANT)
        return tuple(c for c in self.columns if c.type not in unused)


@dataclass(frozen=True)
class Profile:
    """What was found in the data: `data/profile.json`."""

    schema: Schema
    rows: int
    holdout_rows: int
    folds: int
    sha256: str
    """Digest of the training and hold-out rows."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rows:
    """Typed rows.

    frame: one column a `Schema.features` column, in its order, with dtype by type: Number float64 (NaN missing), Boolean float64
        (0, 1, NaN), Category and Text `object` of str (None missing), Datetime float64 Unix seconds (NaN missing), Image `object`
        of uint8 arrays (height, width, channels) of the column's stored size, C-contiguous and not to be written (None missing):
        in training, views into a file that the system pages in and out.
    y: classification int64 (n,), index into `Schema.classes`; regression float64 (n,). Without NaN.
    weight: float64 (n,), mean 1; None when all are 1.
    groups: object (n,), rows of one group never stand on both sides of a split; None when there are none.
    identity: names these rows in this process: rows of the same name are the same rows. None for rows without a name.
    """

    frame: pd.DataFrame
    y: np.ndarray
    weight: np.ndarray | None = None
    groups: np.ndarray | None = None
    identity: str | None = None

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, index: np.ndarray) -> Rows:
        """The rows at these positions (integers) or where this mask is true."""
        return Rows(
            self.frame.iloc[index] if index.dtype != bool else self.frame[index],
            self.y[index],
            None if self.weight is None else self.weight[index],
            None if self.groups is None else self.groups[index],
        )

    def joined(self, more: Rows) -> Rows:
        """These rows and those after them, weights as they are; with groups where both have some."""
        weight = groups = None
        if self.weight is not None or more.weight is not None:
            weight = np.concatenate([np.ones(len(r)) if r.weight is None else r.weight for r in (self, more)])
        if self.groups is not None and more.groups is not None:
            groups = np.concatenate([self.groups, more.groups])
        frame = pd.concat([self.frame, more.frame], ignore_index=True)
        return Rows(frame, np.concatenate([self.y, more.y]), weight, groups)


@dataclass(frozen=True)
class PreparedData:
    """Data ready for trials.

    fold: int16 (len(train),), the fold in which a row is validated; -1 for rows that are only ever trained on (time splits).
    groups: object (len(train),) or None.
    once_seconds: how much of the preparation was what later pods find done: types, folds, the search for leaks.
    """

    profile: Profile
    train: Rows
    fold: np.ndarray
    holdout: Rows
    groups: np.ndarray | None = None
    once_seconds: float = 0.0

    @property
    def schema(self) -> Schema:
        return self.profile.schema

    @property
    def has_time(self) -> bool:
        """Whether each fold is predicted from earlier rows alone."""
        return bool((self.fold < 0).any())

    @property
    def grouped(self) -> Rows:
        """The training rows, with their groups."""
        return replace(self.train, groups=self.groups)

    @property
    def all_rows(self) -> Rows:
        """Training and hold-out rows as one."""
        return self.grouped.joined(self.holdout)


@dataclass(frozen=True)
class Dataset:
    """Raw rows, and what is worth a warning about how they were read."""

    frame: pd.DataFrame
    warnings: tuple[str, ...] = ()
