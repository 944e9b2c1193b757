"""The metrics a job may optimise, which tasks they fit, and which way is better.

A table, so that the planner can refuse an unfitting metric before any pod starts; how a metric is computed is the
trainer's business (`kubeautoml_trainer.tasks`), and a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class TaskType(StrEnum):
    """What is predicted from what."""

    TABULAR_CLASSIFICATION = "TabularClassification"
    TABULAR_REGRESSION = "TabularRegression"
    TEXT_CLASSIFICATION = "TextClassification"
    TEXT_REGRESSION = "TextRegression"
    IMAGE_CLASSIFICATION = "ImageClassification"
    IMAGE_REGRESSION = "ImageRegression"

    @property
    def is_classification(self) -> bool:
        """Whether classes are predicted; numbers else."""
        return self.value.endswith("Classification")


class Direction(StrEnum):
    """Which way an objective improves."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


@dataclass(frozen=True)
class Metric:
    """One metric: its name in a manifest, which way is better, and the tasks it fits."""

    name: str
    direction: Direction
    tasks: tuple[TaskType, ...]
    is_decision: bool = False
    """Whether it looks at which class was decided, not at probabilities."""


_CLS = tuple(t for t in TaskType if t.is_classification)
_REG = tuple(t for t in TaskType if not t.is_classification)
_UP, _DOWN = Direction.MAXIMIZE, Direction.MINIMIZE

METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("RocAuc", _UP, _CLS),
        Metric("AveragePrecision", _UP, _CLS),
        Metric("LogLoss", _DOWN, _CLS),
        Metric("Brier", _DOWN, _CLS),
        Metric("Accuracy", _UP, _CLS, is_decision=True),
        Metric("BalancedAccuracy", _UP, _CLS, is_decision=True),
        Metric("F1", _UP, _CLS, is_decision=True),
        Metric("F1Macro", _UP, _CLS, is_decision=True),
        Metric("Precision", _UP, _CLS, is_decision=True),
        Metric("Recall", _UP, _CLS, is_decision=True),
        Metric("MatthewsCorrelation", _UP, _CLS, is_decision=True),
        Metric("ExpectedCost", _DOWN, _CLS, is_decision=True),
        Metric("RecallAtPrecision", _UP, _CLS),
        Metric("PinballLoss", _DOWN, _REG),
        Metric("Rmse", _DOWN, _REG),
        Metric("Mse", _DOWN, _REG),
        Metric("Mae", _DOWN, _REG),
        Metric("MedianAbsoluteError", _DOWN, _REG),
        Metric("R2", _UP, _REG),
        Metric("Mape", _DOWN, _REG),
        Metric("Rmsle", _DOWN, _REG),
    )
}

DEFAULT_METRIC: dict[TaskType, str] = {
    TaskType.TABULAR_CLASSIFICATION: "RocAuc",
    TaskType.TABULAR_REGRESSION: "Rmse",
    TaskType.TEXT_CLASSIFICATION: "Accuracy",
    TaskType.TEXT_REGRESSION: "Rmse",
    TaskType.IMAGE_CLASSIFICATION: "Accuracy",
    TaskType.IMAGE_REGRESSION: "Rmse",
}


QUANTILE_METRIC = "PinballLoss"
"""The metric of a job that asks for quantiles, and of no other."""


def default_metric(task: TaskType, quantiles: bool) -> str:
    """The metric of a job that names none."""
    return QUANTILE_METRIC if quantiles else DEFAULT_METRIC[task]


def metrics_of(task: TaskType) -> tuple[str, ...]:
    """Names of the metrics that fit a task, the default first."""
    default = DEFAULT_METRIC[task]
    return (default, *(m.name for m in METRICS.values() if task in m.tasks and m.name != default))


def is_better(metric: str, new: float, old: float) -> bool:
    """Whether `new` beats `old` in the metric's own direction."""
    return new > old if METRICS[metric].direction is Direction.MAXIMIZE else new < old
