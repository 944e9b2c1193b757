"""Tabular regression: a prediction is one number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Schema
from kubeautoml_trainer.tasks import metrics as m
from kubeautoml_trainer.tasks.base import MetricFunction


@dataclass(frozen=True)
class RegressionTask:
    """How much of the target a row has."""

    schema: Schema
    type: TaskType = field(default=TaskType.TABULAR_REGRESSION, init=False)

    @property
    def outputs(self) -> int:
        return 1

    @cached_property
    def metrics(self) -> Mapping[str, MetricFunction]:
        return {
            "Rmse": _of_numbers(m.rmse),
            "Mse": _of_numbers(m.mse),
            "Mae": _of_numbers(m.mae),
            "MedianAbsoluteError": _of_numbers(m.median_absolute_error),
            "R2": _of_numbers(m.r2),
            "Mape": _of_numbers(m.mape),
            "Rmsle": _of_numbers(m.rmsle),
        }

    def score(self, metric: str, y: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None) -> float:
        return self.metrics[metric](y, prediction, weight) if len(y) else float("nan")

    def prior(self, y: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """The mean."""
        return np.array([np.average(y, weights=weight)], dtype=np.float32)

    def labels(self, prediction: np.ndarray) -> np.ndarray:
        return prediction[:, 0].astype(np.float64)

    def output_frame(self, prediction: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame({self.schema.target: self.labels(prediction)})


def _of_numbers(one: Callable[[np.ndarray, np.ndarray, np.ndarray], float]) -> MetricFunction:
    def measure(y: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None) -> float:
        return one(y, prediction[:, 0].astype(np.float64), m.weights_or_ones(weight, len(y)))

    return measure
