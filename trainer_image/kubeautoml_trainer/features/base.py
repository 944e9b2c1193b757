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
        had gaps, then: `unscaled` nothing more; `standard` mean 0 and deviation 1; `robust` median and interquartile
        range, smoothly clipped to (-3, 3); `quantile` normal scores; `skew` normal scores for skewed columns,
        `standard` for the others.
    categories: `codes` whole numbers; `joined` the same, which also stand as the last columns of the numbers (one
    array for LightGBM); `onehot` one 0/1 number a level, beside the scaled numbers; `strings` as they are (CatBoost).
    max_levels: levels a column keeps; the rest become one, OTHER.
    min_level_rows: rows a level needs to be kept.
    target_means_above: columns with more levels than this also get the target's mean a level, out of fold for the
    training rows;
        None for never.
    target_prior_rows: rows of the overall mean mixed into a level's.
    frequencies: adds how often a level occurs.
    indicators: adds 0/1 numbers for columns whose gaps say something about the target.
    text: `svd` up to 32 numbers a column; `sparse` the word matrix itself, in `Encoded.sparse`; `raw` the
        texts as they are, in `Encoded.texts`; `none` none of these.
    encoder: digest of the weights of a sentence encoder whose numbers stand for each text, too; "" for none. encoder_numbers: how
        many of them, those in which the texts differ most; 0 for all.
    terms: of the word matrix: `words` and pairs of them, `characters` runs of two to five, or `both` side by side.
    most_terms: columns of a text's matrix, all kinds together; where there are both, a quarter of them words.
    text_statistics: adds length, words, digits and such of each text.
    images: `features` numbers that say where edges run and which colours there are; `pixels` the pictures themselves, in
        `Encoded.images`.
    cyclic: adds sine and cosine of day of year, weekday and hour.
    calendar: adds weekend, first and last day of the month, quarter, day of the year.
    date_differences: adds the days between two date columns.
    crosses: pairs of categories kept as columns of their own, which become means of the target.
    arithmetic: sums, differences, products and ratios of two numbers kept.
    groups: numbers kept that compare a number with others of its category.
    polynomial: adds all products of two scaled numbers, where there are few.
    keep_share: share of the dense columns kept, those that go best with the target.
    """

    scaling: Literal["none", "unscaled", "standard", "robust", "quantile", "skew"] = "none"
    categories: Literal["codes", "joined", "onehot", "strings"] = "codes"
    max_levels: int = 1000
    min_level_rows: int = 2
    target_means_above: int | None = None
    target_prior_rows: float = 10.0
    frequencies: bool = False
    indicators: bool = False
    text: Literal["svd", "sparse", "raw", "none"] = "svd"
    encoder: str = ""
    encoder_numbers: int = 64
    terms: Literal["words", "characters", "both"] = "words"
    most_terms: int = 50_000
    text_statistics: bool = True
    images: Literal["features", "pixels"] = "features"
    cyclic: bool = False
    calendar: bool = False
    date_differences: bool = True
    crosses: int = 0
    arithmetic: int = 0
    groups: int = 0
    polynomial: bool = False
    keep_share: float = 1.0

    @property
    def chooses(self) -> bool:
        """Whether some features are chosen among many by their use for the target."""
        return self.crosses > 0 or self.arithmetic > 0 or self.groups > 0


@dataclass(frozen=True)
class Encoded:
    """Rows as arrays.

    numbers: float64 (n, k). codes: int32 (n, c). strings: object of bytes (n, c), UTF-8, with `strings` categories, else None.
    sparse: scipy CSR float32 (n, words) with `sparse` text columns, else None.
    images: object (n, image columns) of uint8 arrays (height, width, channels), None missing, with `pixels`, else None.
    texts: object of str or None (n, text columns) with `raw` texts, else None.
    """

    numbers: np.ndarray
    codes: np.ndarray
    strings: np.ndarray | None = None
    sparse: Any = None
    images: np.ndarray | None = None
    texts: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.numbers)
