"""What models that live on distances between rows read: numbers of one scale, without gaps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubeautoml_trainer.features import Recipe

_MOST_LEVELS = 50  # one-hot columns of a category
_HIGH_CARDINALITY = 30  # levels above which a column also gets the target's mean


def distance_recipe(scaling: Any, *, with_means: bool = True, texts: Mapping[str, Any] | None = None) -> Recipe:
    """Scaled numbers and one-hot categories; those of many levels also as the target's means.

    Args:
        scaling: as in `Recipe`. texts: further members of it, from `text_choice`; an encoder's numbers stand in place of the terms'.
        with_means: false where there are so many classes that the means would be more columns than everything else.
    """
    means = _HIGH_CARDINALITY if with_means else None
    more: dict[str, Any] = {**texts, "text": "none"} if texts else {}
    return Recipe(scaling=scaling, categories="onehot", max_levels=_MOST_LEVELS, target_means_above=means, **more)
