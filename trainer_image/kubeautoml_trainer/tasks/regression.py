"""Regression, from whatever: a prediction is one number, or a row of quantiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Schema
from kubeautoml_trainer.tasks import metrics as m
from kubeautoml_trainer.tasks.base import Copied, MetricFunction
from kubeautoml_trainer.tasks.post import middle


@dataclass(frozen=True)
class RegressionTask(Copied):
    """How much of the target a row has. With `quantiles` (rising) a prediction has one column each; metrics of one number then take
    the middle column.
    """

    schema: Schema
    quantiles: tuple[float, ...] = ()
    type: TaskType = TaskType.TABULAR_REGRESSION

    @property
    def outputs(self) -> int:
        return len(self.quantiles) or 1

    @property
    def costs(self) -> np.ndarray | None:
        return None

    @property
    def of_table(self) -> Mapping[str, Callable[[np.ndarray], float]]:
        return {}

    @cached_property
    def metrics(self) -> Mapping[str, MetricFunction]:
        quantiles = self.quantiles
        of_quantiles: dict[str, MetricFunction] = {
            "PinballLoss": lambda y, p, weight: m.pinball(y, p, m.weights_or_ones(weight, len(y)), quantiles)
        }
        return (of_quantiles if quantiles else {}) | {
            "Rmse": _of_numbers(m.rmse),
            "Mse": _of_numbers(m.mse),
            "Mae": _of_numbers(m.mae),
            "MedianAbsoluteError": _of_numbers(m.median_absolute_error),
            "R2": _of_numbers(m.r2),
            "Mape": _of_numbers(m.mape),
            "Rmsle": _of_numbers(m.rmsle),
        }

    def score(
        self,
        metric: str,
        y: np.ndarray,
        prediction: np.ndarray,
        weight: np.ndarray | None,
        decided: np.ndarray | None = None,
    ) -> float:
        return self.metrics[metric](y, prediction, weight) if len(y) else float("nan")

    def prior(self, y: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """The mean, or the quantiles."""
        if self.quantiles:
            w = m.weights_or_ones(weight, len(y))
            return np.array([m.weighted_quantile(y, w, q) for q in self.quantiles], dtype=np.float32)
        return np.array([np.average(y, weights=weight)], dtype=np.float32)

    def labels(self, prediction: np.ndarray) -> np.ndarray:
        return middle(prediction)

    def output_frame(self, prediction: np.ndarray) -> pd.DataFrame:
        columns = {self.schema.target: self.labels(prediction)}
        for k, q in enumerate(self.quantiles):
            columns[f"{self.schema.target}_q{q:g}"] = prediction[:, k].astype(np.float64)
        return pd.DataFrame(columns)


def _of_numbers(one: Callable[[np.ndarray, np.ndarray, np.ndarray], float]) -> MetricFunction:
    def measure(y: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None) -> float:
        return one(y, middle(prediction), m.weights_or_ones(weight, len(y)))

    return measure
