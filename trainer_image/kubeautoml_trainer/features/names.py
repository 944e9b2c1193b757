"""What the arrays' columns are called, for models that a person reads."""

from __future__ import annotations

from itertools import combinations

from kubeautoml_trainer.features.datetimes import MAX_DIFFERENCES
from kubeautoml_trainer.features.fitted import Features

_DATE_PARTS = ("year", "month", "day", "weekday", "hour", "days elapsed")
_TEXT_PARTS = ("characters", "words", "length of a word", "digits", "capitals", "marks")


def column_names(features: Features) -> tuple[str, ...]:
    """Names of `Encoded.numbers`' columns, then of its codes'; for plain recipes, which add no features and scale nothing.

    Raises:
        ValueError: the recipe adds columns that have no name.
    """
    recipe = features.recipe
    if recipe.chooses or recipe.cyclic or recipe.calendar or recipe.scaling != "none" or recipe.categories != "codes":
        raise ValueError(f"columns of {recipe} have no names")
    names = [*features.numbers, *(f"{c}: {part}" for c in features.dates for part in _DATE_PARTS)]
    if recipe.date_differences and len(features.dates) > 1:
        pairs = list(combinations(features.dates, 2))[:MAX_DIFFERENCES]
        names += [f"days from {a} to {b}" for a, b in pairs]
    for column, terms in zip(features.texts, features.terms, strict=True):
        if recipe.text_statistics:
            names += [f"{column}: {part}" for part in _TEXT_PARTS]
        if recipe.text == "svd":
            count = 0 if terms.components is None else len(terms.components)
            names += [f"{column}: topic {k + 1}" for k in range(count)]
    for column, picture in zip(features.images, features.pictures, strict=False):
        names += [f"{column}: feature {k + 1}" for k in range(picture.count)]
    return (*names, *features.categories)
