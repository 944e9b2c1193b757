"""The constant prediction: what any model must beat."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features import Encoded, Recipe, fit_features
from kubeautoml_trainer.models.base import DataShape, FitContext
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.space import Parameters, Space
from kubeautoml_trainer.tasks.metrics import weighted_median, weights_or_ones

_FILE = "dummy.json"
_MEDIAN_METRICS = ("Mae", "MedianAbsoluteError")


@dataclass(frozen=True)
class ConstantModel:
    """value: float32 (outputs,)."""

    value: np.ndarray

    def predict(self, x: Encoded, threads: int = 1) -> np.ndarray:
        return np.tile(self.value, (len(x), 1))

    def save(self, folder: Path) -> None:
        (folder / _FILE).write_text(json.dumps({"value": [float(v) for v in self.value]}), encoding="utf-8")


class Dummy:
    """Shares of the classes; the mean, or the median where the metric wants it."""

    name = "Dummy"
    interpretable = True
    relative_cost = 0.05

    def fits(self, shape: DataShape) -> bool:
        return True

    def space(self, shape: DataShape) -> Space:
        return {}

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        return ((0, {}),)

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        no_columns = Schema(schema.target, (), schema.classes, schema.positive_class)
        features, _ = fit_features(Recipe(), train, no_columns, context.seed)
        value = context.task.prior(train.y, train.weight)
        if context.metric in _MEDIAN_METRICS:
            value = np.array([weighted_median(train.y, weights_or_ones(train.weight, len(train)))], dtype=np.float32)
        return FittedPipeline(self.name, dict(parameters), None, features, ConstantModel(value))

    def load(self, folder: Path) -> ConstantModel:
        return load_constant(folder)


def load_constant(folder: Path) -> ConstantModel:
    """Read what `ConstantModel.save` wrote.

    Raises:
        BundleError: absent or damaged.
    """
    try:
        stored = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        return ConstantModel(np.asarray(stored["value"], dtype=np.float32))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{folder / _FILE} cannot be read: {error!r}") from error
