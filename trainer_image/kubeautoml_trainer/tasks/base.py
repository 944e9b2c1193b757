"""What a task is: how predictions look, how they are scored. Nobody but a task asks which task it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Protocol

import numpy as np
import pandas as pd

from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Schema

MetricFunction = Callable[[np.ndarray, np.ndarray, np.ndarray | None], float]
"""(y, prediction, weight) -> value. `y` as in `data.base.Rows`; `prediction` float (n, outputs); `weight` (n,) or
None.
"""


class Copied:
    """A frozen dataclass whose fields are all of it: what it has worked out is left behind when it goes to another process, as functions
    cannot go there.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]  # of a dataclass


class Task(Protocol):
    """One kind of task, bound to a schema (its classes)."""

    @property
    def type(self) -> TaskType: ...

    @property
    def schema(self) -> Schema: ...

    @property
    def outputs(self) -> int:
        """Columns of a prediction: classes (probabilities that sum to 1), quantiles, or 1 (the number)."""
        ...

    @property
    def metrics(self) -> Mapping[str, MetricFunction]:
        """Every metric of `kubeautoml.api.metrics` that fits this task, by name."""
        ...

    @property
    def of_table(self) -> Mapping[str, Callable[[np.ndarray], float]]:
        """Metrics of decisions, as functions of the weighted confusion matrix (classes, classes), truth by row; empty for numbers."""
        ...

    @property
    def costs(self) -> np.ndarray | None:
        """What a decision costs, float64 (actual, predicted); None where nobody said."""
        ...

    @property
    def quantiles(self) -> tuple[float, ...]:
        """The quantiles that the columns of a prediction are, rising; empty for a mean and for classes."""
        ...

    def score(
        self,
        metric: str,
        y: np.ndarray,
        prediction: np.ndarray,
        weight: np.ndarray | None,
        decided: np.ndarray | None = None,
    ) -> float:
        """One metric; NaN where it is not defined (such as ROC AUC of one class).

        Args:
            decided: int (n,), the class of each row as `tasks.post.Post.decided` says it, for metrics of decisions; None for the
                usual decision (the most probable class, the one that costs least).
        """
        ...

    def prior(self, y: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """The best constant prediction, float32 (outputs,)."""
        ...

    def labels(self, prediction: np.ndarray) -> np.ndarray:
        """Predictions in the target's own words: class names (str) or numbers, (n,)."""
        ...

    def output_frame(self, prediction: np.ndarray) -> pd.DataFrame:
        """A column named like the target, and for classes one `<target>_<class>` with the probability of each."""
        ...
