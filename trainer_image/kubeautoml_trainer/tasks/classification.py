"""Classification, of whatever: a prediction is a row of class probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Schema
from kubeautoml_trainer.tasks import metrics as m
from kubeautoml_trainer.tasks.base import Copied, MetricFunction


@dataclass(frozen=True)
class ClassificationTask(Copied):
    """Which of `schema.classes` a row belongs to; decisions take the most probable class (for two: threshold 0.5)."""

    schema: Schema
    costs: np.ndarray | None = field(default=None, repr=False, compare=False)
    """float64 (actual, predicted), what a decision costs; None where nobody said."""
    min_precision: float = 0.9
    type: TaskType = TaskType.TABULAR_CLASSIFICATION

    @property
    def quantiles(self) -> tuple[float, ...]:
        return ()

    @property
    def outputs(self) -> int:
        return len(self.schema.classes)

    @property
    def positive(self) -> int:
        """Index of the class that binary metrics are about: `schema.positive_class`, else the last."""
        named = self.schema.positive_class
        return self.schema.classes.index(named) if named in self.schema.classes else self.outputs - 1

    @cached_property
    def metrics(self) -> Mapping[str, MetricFunction]:
        return {
            "RocAuc": self._ranked(m.roc_auc),
            "AveragePrecision": self._ranked(m.average_precision),
            "RecallAtPrecision": self._ranked(
                lambda hit, score, weight: m.recall_at_precision(hit, score, weight, self.min_precision)
            ),
            "LogLoss": _of_probabilities(m.log_loss),
            "Brier": _of_probabilities(m.brier),
            **{
                name: self._decided(one, self.costs if name == "ExpectedCost" else None)
                for name, one in self.of_table.items()
            },
        }

    @cached_property
    def of_table(self) -> Mapping[str, Callable[[np.ndarray], float]]:
        """Metrics of decisions, as functions of the weighted confusion matrix (classes, classes), truth by row."""
        found: dict[str, Callable[[np.ndarray], float]] = {
            "Accuracy": m.accuracy,
            "BalancedAccuracy": m.balanced_accuracy,
            "F1": self._of_positive(m.f1_of),
            "F1Macro": m.f1_macro,
            "Precision": self._of_positive(m.precision_of),
            "Recall": self._of_positive(m.recall_of),
            "MatthewsCorrelation": m.matthews,
        }
        costs = self.costs
        return found if costs is None else {**found, "ExpectedCost": lambda table: m.expected_cost(table, costs)}

    def score(
        self,
        metric: str,
        y: np.ndarray,
        prediction: np.ndarray,
        weight: np.ndarray | None,
        decided: np.ndarray | None = None,
    ) -> float:
        if not len(y):
            return float("nan")
        if decided is not None and metric in self.of_table:
            w = m.weights_or_ones(weight, len(y))
            return self.of_table[metric](m.confusion(y, decided, self.outputs, w))
        return self.metrics[metric](y, prediction, weight)

    def prior(self, y: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """Shares of the classes."""
        share = np.bincount(y, weights=weight, minlength=self.outputs).astype(np.float64)
        return np.asarray(share / share.sum(), dtype=np.float32)

    def labels(self, prediction: np.ndarray) -> np.ndarray:
        names = np.asarray(self.schema.classes, dtype=object)
        return np.asarray(names[np.argmax(prediction, axis=1)])

    def output_frame(self, prediction: np.ndarray) -> pd.DataFrame:
        columns: dict[str, np.ndarray] = {self.schema.target: self.labels(prediction)}
        for k, name in enumerate(self.schema.classes):
            columns[f"{self.schema.target}_{name}"] = prediction[:, k]
        return pd.DataFrame(columns)

    def _ranked(self, one: Callable[[np.ndarray, np.ndarray, np.ndarray], float]) -> MetricFunction:
        """Two classes: the positive class's ranking; more: the mean of one-against-rest over the classes present."""

        def measure(y: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None) -> float:
            w = m.weights_or_ones(weight, len(y))
            if self.outputs == 2:
                return one(y == self.positive, prediction[:, self.positive], w)
            each = [one(y == k, prediction[:, k], w) for k in np.unique(y)]
            return float(np.mean(each)) if len(each) > 1 else m.NAN

        return measure

    def _decided(self, of_table: Callable[[np.ndarray], float], cheapest: np.ndarray | None = None) -> MetricFunction:
        """Of the most probable classes, or of those that cost least where costs are given."""

        def measure(y: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None) -> float:
            decided = np.argmax(prediction, axis=1) if cheapest is None else np.argmin(prediction @ cheapest, axis=1)
            return of_table(m.confusion(y, decided, self.outputs, m.weights_or_ones(weight, len(y))))

        return measure

    def _of_positive(self, of_class: Callable[[np.ndarray, int], float]) -> Callable[[np.ndarray], float]:
        """Two classes: the positive one's value; more: the mean weighted by support."""

        def measure(table: np.ndarray) -> float:
            if self.outputs == 2:
                return of_class(table, self.positive)
            return m.support_weighted(np.array([of_class(table, k) for k in range(self.outputs)]), table)

        return measure


def _of_probabilities(one: Callable[[np.ndarray, np.ndarray, np.ndarray], float]) -> MetricFunction:
    def measure(y: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None) -> float:
        return one(y, prediction, m.weights_or_ones(weight, len(y)))

    return measure
