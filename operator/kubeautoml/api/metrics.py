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


_CLS = (TaskType.TABULAR_CLASSIFICATION,)
_REG = (TaskType.TABULAR_REGRESSION,)
_UP, _DOWN = Direction.MAXIMIZE, Direction.MINIMIZE

METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("RocAuc", _UP, _CLS),
        Metric("AveragePrecision", _UP, _CLS),
        Metric("LogLoss", _DOWN, _CLS),
        Metric("Brier", _DOWN, _CLS),
        Metric("Accuracy", _UP, _CLS),
        Metric("BalancedAccuracy", _UP, _CLS),
        Metric("F1", _UP, _CLS),
        Metric("F1Macro", _UP, _CLS),
        Metric("Precision", _UP, _CLS),
        Metric("Recall", _UP, _CLS),
        Metric("MatthewsCorrelation", _UP, _CLS),
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
}


def metrics_of(task: TaskType) -> tuple[str, ...]:
    """Names of the metrics that fit a task, the default first."""
    default = DEFAULT_METRIC[task]
    return (default, *(m.name for m in METRICS.values() if task in m.tasks and m.name != default))


def is_better(metric: str, new: float, old: float) -> bool:
    """Whether `new` beats `old` in the metric's own direction."""
    return new > old if METRICS[metric].direction is Direction.MAXIMIZE else new < old
