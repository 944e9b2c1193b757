"""What models that live on distances between rows read: numbers of one scale, without gaps."""

from __future__ import annotations

from typing import Any

from kubeautoml_trainer.features import Recipe

_MOST_LEVELS = 50  # one-hot columns of a category
_HIGH_CARDINALITY = 30  # levels above which a column also gets the target's mean


def distance_recipe(scaling: Any, *, with_means: bool = True) -> Recipe:
    """Scaled numbers and one-hot categories; those of many levels also as the target's means.

    Args:
        scaling: as in `Recipe`.
        with_means: false where there are so many classes that the means would be more columns than everything else.
    """
    means = _HIGH_CARDINALITY if with_means else None
    return Recipe(scaling=scaling, categories="onehot", max_levels=_MOST_LEVELS, target_means_above=means)
