"""Values of the feature layer: what a family asks for (a recipe) and what it gets (encoded rows)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

MISSING, OTHER = 0, 1
"""Codes that are no level: no value; a value too rare in, or absent from, the training rows. Levels start at 2."""


@dataclass(frozen=True)
class Recipe:
    """How typed rows become arrays.

    scaling: of all numbers. `none` leaves NaN in place (trees); the others put the median for it, add an indicator
    for columns that
        had gaps, then: `standard` mean 0 and deviation 1; `robust` median and interquartile range, smoothly clipped
        to (-3, 3); `quantile` normal scores; `skew` normal scores for skewed columns, `standard` for the others.
    categories: `codes` whole numbers; `onehot` one 0/1 number a level, beside the scaled numbers; `strings` as they
    are (CatBoost).
    max_levels: levels a column keeps; the rest become one, OTHER.
    min_level_rows: rows a level needs to be kept.
    target_means_above: columns with more levels than this also get the target's mean a level, out of fold for the
    training rows;
        None for never.
    text: `svd` up to 32 numbers a column; `sparse` the word matrix itself, in `Encoded.sparse`.
    cyclic: adds sine and cosine of day of year, weekday and hour.
    """

    scaling: Literal["none", "standard", "robust", "quantile", "skew"] = "none"
    categories: Literal["codes", "onehot", "strings"] = "codes"
    max_levels: int = 1000
    min_level_rows: int = 2
    target_means_above: int | None = None
    text: Literal["svd", "sparse"] = "svd"
    cyclic: bool = False


@dataclass(frozen=True)
class Encoded:
    """Rows as arrays.

    numbers: float64 (n, k). codes: int32 (n, c). strings: object of str (n, c) with `strings` categories, else None.
    sparse: scipy CSR float32 (n, words) with `sparse` text columns, else None.
    """

    numbers: np.ndarray
    codes: np.ndarray
    strings: np.ndarray | None = None
    sparse: Any = None

    def __len__(self) -> int:
        return len(self.numbers)
