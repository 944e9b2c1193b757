"""A loaded model: raw rows in, predictions out. One path for notebooks, batch prediction and the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from kubeautoml.api.errors import PredictionError
from kubeautoml_trainer.bundle.manifest import Manifest
from kubeautoml_trainer.data.base import Schema
from kubeautoml_trainer.data.schema import coerce
from kubeautoml_trainer.models.base import Pipeline
from kubeautoml_trainer.tasks.base import Task


@dataclass(frozen=True)
class LoadedMember:
    """One member's pipelines, and what their mean weighs."""

    weight: float
    pipelines: tuple[Pipeline, ...] = field(repr=False)

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """float64 (n, outputs) of typed rows: the mean over folds."""
        return np.asarray(sum(p.predict(frame).astype(np.float64) for p in self.pipelines) / len(self.pipelines))


@dataclass(frozen=True)
class Model:
    """The weighted mean of its members."""

    manifest: Manifest = field(repr=False)
    sha256: str
    """Digest of bundle.json."""
    schema: Schema = field(repr=False)
    task: Task = field(repr=False)
    members: tuple[LoadedMember, ...] = field(repr=False)
    card: dict[str, Any] = field(repr=False)
    """The model card: what it predicts, how well, made from what."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The target's classes, in the order of `predict_proba`'s columns; empty for numbers."""
        return self.schema.classes

    @property
    def metrics(self) -> Mapping[str, float]:
        """Hold-out metrics."""
        return self.manifest.metrics

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """The target, (n,): class names (str) or numbers (float64).

        Args:
            frame: raw rows, columns found by name in any order; others are ignored.

        Raises:
            PredictionError: a column is missing, or a value does not fit it.
        """
        return self.task.labels(self.raw_prediction(frame))

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        """Probabilities, float32 (n, classes).

        Raises:
            PredictionError: as `predict`; or the model predicts a number.
        """
        if not self.classes:
            raise PredictionError(f"'{self.schema.target}' is a number and has no classes; use predict")
        return self.raw_prediction(frame)

    def predict_frame(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A column named like the target, and for classes `<target>_<class>` with each probability; index as in `frame`."""
        return self.task.output_frame(self.raw_prediction(frame)).set_axis(frame.index, axis="index")

    def raw_prediction(self, frame: pd.DataFrame) -> np.ndarray:
        """float32 (n, outputs) of raw rows."""
        return self.predict_rows(coerce(frame, self.schema))

    def predict_rows(self, frame: pd.DataFrame) -> np.ndarray:
        """float32 (n, outputs) of typed rows (`data.base.Rows.frame`)."""
        if not len(frame):
            return np.zeros((0, self.task.outputs), dtype=np.float32)
        total = sum(m.weight * m.predict(frame) for m in self.members) / sum(m.weight for m in self.members)
        return np.asarray(total, dtype=np.float32)

    def set_threads(self, threads: int) -> None:
        """Threads a prediction may use; 1 at first, which is best for single rows."""
        for member in self.members:
            for pipeline in member.pipelines:
                pipeline.set_threads(threads)
