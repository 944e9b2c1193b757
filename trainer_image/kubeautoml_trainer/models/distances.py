"""What models that live on distances between rows read: numbers of one scale, without gaps. And the nearest of many rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kubeautoml_trainer.features import Recipe

_MOST_LEVELS = 50  # one-hot columns of a category
_HIGH_CARDINALITY = 30  # levels above which a column also gets the target's mean

_GROUPS = (8, 4, 2)  # columns of which the least is looked at first
_ENOUGH, _MOST = 2, 2  # times the wanted: groups that there must be, and candidates that there may be


def distance_recipe(scaling: Any, *, with_means: bool = True, texts: Mapping[str, Any] | None = None) -> Recipe:
    """Scaled numbers and one-hot categories; those of many levels also as the target's means.

    Args:
        scaling: as in `Recipe`. texts: further members of it, from `text_choice`; an encoder's numbers stand in place of the terms'.
        with_means: false where there are so many classes that the means would be more columns than everything else.
    """
    means = _HIGH_CARDINALITY if with_means else None
    more: dict[str, Any] = {**texts, "text": "none"} if texts else {}
    return Recipe(scaling=scaling, categories="onehot", max_levels=_MOST_LEVELS, target_means_above=means, **more)


def smallest(values: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the smallest values of each row are, and some more: values float32 (n, columns), 1 <= wanted <= columns.

    The columns are put into groups. As many groups as are wanted hold a value up to the wanted-th smallest of the groups' minima: a
    bound that lets few others in, and is found many times faster than the values themselves would be partitioned.

    Returns:
        Columns, intp (n, m), rising where there is a bound, with m from `wanted` to twice that; which of them count, bool (n, m).
    """
    columns = values.shape[1]
    size = next((g for g in _GROUPS if columns // g >= _ENOUGH * wanted), 0)
    if size:
        groups = columns // size
        least = np.minimum(values[:, :groups], values[:, groups : 2 * groups])
        for first in range(2 * groups, size * groups, groups):
            np.minimum(least, values[:, first : first + groups], out=least)
        least.partition(wanted - 1, axis=1)
        # nonzero of a matrix takes eight times as long
        row, column = np.divmod(np.flatnonzero(values <= least[:, wanted - 1 : wanted]), columns)
        found = np.bincount(row, minlength=len(values))
        most = int(found.max(initial=wanted))
        if most <= _MOST * wanted:  # else many are equal
            counts = np.arange(most) < found[:, None]
            near = np.zeros(counts.shape, dtype=np.intp)
            near[counts] = column
            return near, counts
    near = np.argpartition(values, wanted - 1, axis=1)[:, :wanted]
    return near, np.ones(near.shape, dtype=bool)
