"""Which words a linear model of texts goes by, as a person reads it: those that weigh most for each class, or push a number up or down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kubeautoml_trainer.models.linear_solver import LinearModel
from kubeautoml_trainer.models.pipeline import FittedPipeline

FAMILIES = ("Linear", "NaiveBayesSvm")
"""Whose models have a weight for each word."""
MOST_WORDS, MOST_CLASSES = 12, 30


@dataclass(frozen=True)
class Words:
    """by_side: (class, or what the words do to a number; ((word or pair of words, weight), ...) heaviest first)."""

    family: str
    by_side: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]


def read_words(pipeline: FittedPipeline, target: str, classes: Sequence[str]) -> Words | None:
    """The heaviest words of a pipeline's model; None where it has no weights of words."""
    model, features = pipeline.model, pipeline.features
    if not isinstance(model, LinearModel) or features.recipe.text != "sparse":
        return None
    several = len(features.texts) > 1
    names = [
        f"{word} ({column})" if several else word
        for column, text in zip(features.texts, features.terms, strict=True)
        for word in text.vocabulary
    ]
    runs = sum(len(g.numbers) for g in features.grams)
    # dense columns come first, runs of characters last
    first = len(model.coefficients) - runs - len(names)
    weights = np.asarray(model.coefficients[first : first + len(names)], dtype=np.float64)
    if not len(names):
        return None
    if weights.shape[1] == 1:
        sides = (classes[0], classes[1]) if classes else (f"less {target}", f"more {target}")
        weights = np.hstack([-weights, weights])
    else:
        sides = tuple(classes)  # type: ignore[assignment]
    return Words(
        pipeline.family,
        tuple((side, _heaviest(names, weights[:, k])) for k, side in list(enumerate(sides))[:MOST_CLASSES]),
    )


def _heaviest(names: Sequence[str], weight: np.ndarray) -> tuple[tuple[str, float], ...]:
    best = np.argsort(-weight, kind="stable")[:MOST_WORDS]
    return tuple((names[k], float(weight[k])) for k in best if weight[k] > 0)
