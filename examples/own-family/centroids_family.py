"""A model family of one's own: the class whose mean is nearest, with a probability that falls with the squared distance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features import Encoded, Recipe, fit_features
from kubeautoml_trainer.models.base import DataShape, FitContext
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.space import Float, Parameters, Space

FILE = "centroids.safetensors"


@dataclass(frozen=True)
class CentroidModel:
    """means: float32 (classes, numbers). scale: the squared distance by which odds fall to 1 / e."""

    means: np.ndarray
    scale: float

    def predict(self, x: Encoded, threads: int = 1) -> np.ndarray:
        """float32 (n, classes), each row's sum being 1."""
        gaps = x.numbers.astype(np.float32)[:, None] - self.means
        logits = -np.square(gaps).sum(axis=2) / self.scale
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float32)

    def save(self, folder: Path) -> None:
        """Never pickle: a bundle is loaded by others."""
        from safetensors.numpy import save_file

        save_file({"means": self.means, "scale": np.array([self.scale], dtype=np.float32)}, str(folder / FILE))


class Centroids:
    """Nearest class mean."""

    name = "Centroids"  # CamelCase, as in spec.search.families
    interpretable = False
    relative_cost = 0.1  # in trials of LightGBM

    def fits(self, shape: DataShape) -> bool:
        return shape.task.is_classification

    def space(self, shape: DataShape) -> Space:
        return {"scale": Float(0.1, 100.0, log=True), "shrinkage": Float(0.0, 0.9)}

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        return ((2, {"scale": 10.0, "shrinkage": 0.1}),)

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        settings = {"scale": 10.0, "shrinkage": 0.1, **parameters}
        recipe = Recipe(scaling="standard", categories="onehot")
        features, x = fit_features(recipe, train, schema, context.seed, context.deadline)
        numbers = x.numbers.astype(np.float32)
        overall = numbers.mean(axis=0)
        means = np.stack(
            [
                numbers[train.y == k].mean(axis=0) if (train.y == k).any() else overall
                for k in range(len(schema.classes))
            ]
        )
        shrunk = means + float(settings["shrinkage"]) * (overall - means)
        return FittedPipeline(
            self.name, dict(parameters), None, features, CentroidModel(shrunk, float(settings["scale"]))
        )

    def load(self, folder: Path) -> CentroidModel:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            stored = load_file(str(folder / FILE))
            return CentroidModel(stored["means"], float(stored["scale"][0]))
        except (OSError, KeyError, SafetensorError) as error:
            raise BundleError(f"{folder / FILE} cannot be read: {error!r}") from error
