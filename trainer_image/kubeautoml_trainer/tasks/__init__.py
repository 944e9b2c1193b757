"""Tasks, one a file: what a prediction looks like and how it is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.errors import DataError
from kubeautoml.api.metrics import TaskType
from kubeautoml.api.objective import DecisionCost
from kubeautoml_trainer.data.base import Schema
from kubeautoml_trainer.tasks.base import Task
from kubeautoml_trainer.tasks.classification import ClassificationTask
from kubeautoml_trainer.tasks.image import IMAGE_FAMILIES
from kubeautoml_trainer.tasks.regression import RegressionTask
from kubeautoml_trainer.tasks.text import TEXT_FAMILIES

if TYPE_CHECKING:
    from kubeautoml.api.pod import PodJob

SUITED: Mapping[TaskType, tuple[str, ...]] = {
    TaskType.TEXT_CLASSIFICATION: TEXT_FAMILIES,
    TaskType.TEXT_REGRESSION: TEXT_FAMILIES,
    TaskType.IMAGE_CLASSIFICATION: IMAGE_FAMILIES,
    TaskType.IMAGE_REGRESSION: IMAGE_FAMILIES,
}
"""Model families that a task searches where a job names none; a task that is not in it takes all that fit the shape of its data."""

POINT: Mapping[TaskType, ColumnType] = {
    TaskType.TEXT_CLASSIFICATION: ColumnType.TEXT,
    TaskType.TEXT_REGRESSION: ColumnType.TEXT,
    TaskType.IMAGE_CLASSIFICATION: ColumnType.IMAGE,
    TaskType.IMAGE_REGRESSION: ColumnType.IMAGE,
}
"""The type of column that a task is about: its data must have one."""


def task_for(
    task_type: TaskType,
    schema: Schema,
    *,
    costs: Sequence[DecisionCost] = (),
    min_precision: float = 0.9,
) -> Task:
    """A task, bound to its classes or quantiles.

    Args:
        costs: what decisions cost, as in spec.objective.costs.

    Raises:
        DataError: a cost names a class that the data does not have.
    """
    kind = TaskType(task_type)
    if not kind.is_classification:
        return RegressionTask(schema, schema.quantiles, kind)
    matrix = cost_matrix(costs, schema) if costs else None
    return ClassificationTask(schema, matrix, float(min_precision), kind)


def task_of(job: PodJob, schema: Schema) -> Task:
    """The task of a job.

    Raises:
        DataError: spec.objective.costs names a class that the data does not have.
    """
    return task_for(
        job.task.type,
        schema,
        costs=job.objective.costs,
        min_precision=float(job.objective.min_precision),
    )


def cost_matrix(costs: Sequence[DecisionCost], schema: Schema) -> np.ndarray:
    """float64 (actual, predicted): 0 when right and 1 when wrong, where nothing else is said.

    Raises:
        DataError: a class is not in the data.
    """
    place = {name: k for k, name in enumerate(schema.classes)}
    table = 1.0 - np.eye(len(place))
    for i, cost in enumerate(costs):
        for side, name in (("actual", cost.actual), ("predicted", cost.predicted)):
            if name not in place:
                known = ", ".join(schema.classes[:20]) + (", ..." if len(place) > 20 else "")
                raise DataError(
                    f"spec.objective.costs[{i}].{side} must be a class of '{schema.target}' in the data: {known}; got '{name}'",
                )
        table[place[cost.actual], place[cost.predicted]] = float(cost.cost)
    return table
