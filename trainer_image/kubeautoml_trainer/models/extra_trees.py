"""Extremely randomised trees: thresholds drawn at random, then averaged over some hundred trees."""

from __future__ import annotations

from pathlib import Path

from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.models.base import DataShape, FitContext
from kubeautoml_trainer.models.forest import MOST_CLASSES, Forest, Kind, fit_forest, load_forest, made_features
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.space import Choice, Float, Int, Parameters, Space

DEFAULTS: Parameters = {
    "trees": 300,
    "max_features": 0.5,
    "min_samples_leaf": 1,
    "min_samples_split": 2,
    "criterion": "gini",
    "features": "none",
}

_KIND = Kind("ExtraTrees", "ExtraTrees", "extra_trees.safetensors", DEFAULTS)


class ExtraTrees:
    """Randomised trees, averaged: different enough from boosting to help an ensemble."""

    name = _KIND.family
    interpretable = False
    relative_cost = 2.0

    def fits(self, shape: DataShape) -> bool:
        """A leaf holds a number a class."""
        return shape.outputs <= MOST_CLASSES

    def space(self, shape: DataShape) -> Space:
        """TabArena's, and the size of a leaf."""
        space: dict[str, Float | Int | Choice] = {
            "max_features": Float(0.1, 1.0),
            "min_samples_split": Int(2, 32, log=True),
            "min_samples_leaf": Int(1, 16, log=True),
        }
        space |= made_features(shape)
        return space | ({"criterion": Choice(("gini", "entropy"))} if shape.outputs > 1 else {})

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        """A guess confirmed on Titanic, German credit and Boston: larger leaves for classes, single rows for
        numbers. The square root of the columns is the library's default for classes.
        """
        if shape.outputs > 1:
            first: Parameters = {"min_samples_leaf": 5, "max_features": 0.8, "criterion": "entropy"}
            return ((6, first), (12, {"min_samples_leaf": 2, "max_features": "sqrt"}))
        return ((6, {"min_samples_leaf": 1, "max_features": 0.75}), (12, {"min_samples_leaf": 2, "max_features": 1.0}))

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        return fit_forest(_KIND, train, schema, parameters, context)

    def load(self, folder: Path) -> Forest:
        return load_forest(folder, _KIND.file)
