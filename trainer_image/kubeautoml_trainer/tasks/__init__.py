"""Tasks, one a file: what a prediction looks like and how it is scored."""

from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Schema
from kubeautoml_trainer.tasks.base import Task
from kubeautoml_trainer.tasks.classification import ClassificationTask
from kubeautoml_trainer.tasks.regression import RegressionTask

_TASKS: dict[TaskType, type[ClassificationTask] | type[RegressionTask]] = {
    TaskType.TABULAR_CLASSIFICATION: ClassificationTask,
    TaskType.TABULAR_REGRESSION: RegressionTask,
}


def task_for(task_type: TaskType, schema: Schema) -> Task:
    """The task of a job, bound to its classes."""
    return _TASKS[TaskType(task_type)](schema)
