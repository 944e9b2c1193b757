"""Random forest: best thresholds on bootstrapped rows, averaged over some hundred trees."""

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
    "max_samples": 1.0,
    "min_samples_leaf": 1,
    "min_samples_split": 2,
    "criterion": "gini",
    "features": "none",
}

_KIND = Kind("RandomForest", "RandomForest", "random_forest.safetensors", DEFAULTS)


class RandomForest:
    """Bootstrapped trees, averaged: the yardstick everybody knows."""

    name = _KIND.family
    interpretable = False
    relative_cost = 3.0

    def fits(self, shape: DataShape) -> bool:
        """A leaf holds a number a class."""
        return shape.outputs <= MOST_CLASSES

    def space(self, shape: DataShape) -> Space:
        """TabArena's, and the size of a leaf."""
        space: dict[str, Float | Int | Choice] = {
            "max_features": Float(0.1 if shape.outputs > 1 else 0.4, 1.0),
            "max_samples": Float(0.5, 1.0),
            "min_samples_split": Int(2, 4),
            "min_samples_leaf": Int(1, 16, log=True),
        }
        space |= made_features(shape)
        return space | ({"criterion": Choice(("gini", "entropy"))} if shape.outputs > 1 else {})

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        """Late, since extremely randomised trees, which come first, mostly score better in less time."""
        if shape.outputs > 1:
            return ((17, {"min_samples_leaf": 2, "max_features": "sqrt"}),)
        return ((17, {"max_features": 0.4}),)

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        return fit_forest(_KIND, train, schema, parameters, context)

    def load(self, folder: Path) -> Forest:
        return load_forest(folder, _KIND.file)
