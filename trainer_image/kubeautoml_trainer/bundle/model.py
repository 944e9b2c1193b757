"""A loaded model: raw rows in, predictions out. One path for notebooks, batch prediction and the server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
import pandas as pd

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.errors import PredictionError
from kubeautoml_trainer.bundle.manifest import Manifest, Variant
from kubeautoml_trainer.data.base import Schema
from kubeautoml_trainer.data.row import TypedRow, typed_row
from kubeautoml_trainer.data.schema import coerce
from kubeautoml_trainer.features.again import one_prediction
from kubeautoml_trainer.models.base import Pipeline
from kubeautoml_trainer.models.blocks import by_shares
from kubeautoml_trainer.models.cores import threads_for
from kubeautoml_trainer.models.second_level import SecondLevel
from kubeautoml_trainer.tasks.base import Task
from kubeautoml_trainer.tasks.post import Post


@dataclass(frozen=True)
class LoadedMember:
    """One member's pipelines, and what their mean weighs."""

    weight: float
    pipelines: tuple[Pipeline, ...] = field(repr=False)

    def predict(self, frame: pd.DataFrame | TypedRow) -> np.ndarray:
        """float64 (n, outputs) of typed rows: the mean over folds."""
        rows = cast(pd.DataFrame, frame)  # features ask a row for no more than TypedRow has
        return np.asarray(sum(p.predict(rows).astype(np.float64) for p in self.pipelines) / len(self.pipelines))


@dataclass(frozen=True)
class LoadedSecond:
    """A second level, and what its answer weighs. inputs: positions of the members that it asks."""

    weight: float
    inputs: tuple[int, ...]
    level: SecondLevel = field(repr=False)


@dataclass(frozen=True)
class Model:
    """One variant of a bundle: the weighted mean of its members (and of a second level), and what is done to it."""

    manifest: Manifest = field(repr=False)
    variant: Variant = field(repr=False)
    sha256: str
    """Digest of bundle.json."""
    schema: Schema = field(repr=False)
    task: Task = field(repr=False)
    members: tuple[LoadedMember, ...] = field(repr=False)
    post: Post = field(repr=False)
    card: dict[str, Any] = field(repr=False)
    """The model card: what it predicts, how well, made from what."""
    second: LoadedSecond | None = field(default=None, repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """The target's classes, in the order of `predict_proba`'s columns; empty for numbers."""
        return self.schema.classes

    @property
    def metrics(self) -> Mapping[str, float]:
        """Hold-out metrics of this variant."""
        return self.variant.metrics

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of all variants in the bundle, the default first."""
        return tuple(v.name.value for v in self.manifest.variants)

    @cached_property
    def interval_columns(self) -> tuple[str, ...]:
        """Columns that `predict_frame` gives beyond the target and its probabilities."""
        probe = np.full((1, self.task.outputs), 1 / self.task.outputs, dtype=np.float32)
        usual = (self.schema.target, *(f"{self.schema.target}_{c}" for c in self.classes))
        return tuple(str(c) for c in self.output_frame(probe).columns if c not in usual)

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """The target, (n,): class names (str) or numbers (float64).

        Args:
            frame: raw rows, columns found by name in any order; others are ignored.

        Raises:
            PredictionError: a column is missing, or a value does not fit it.
        """
        raw = self.raw_prediction(frame)
        if self.classes:
            return np.asarray(np.asarray(self.classes, dtype=object)[self.post.decided(raw)])
        return self.task.labels(self.post.calibrated(raw))

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        """Probabilities, float32 (n, classes).

        Raises:
            PredictionError: as `predict`; or the model predicts a number.
        """
        if not self.classes:
            raise PredictionError(f"'{self.schema.target}' is a number and has no classes; use predict")
        return self.post.calibrated(self.raw_prediction(frame))

    def predict_frame(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A column named like the target, and for classes `<target>_<class>` with each probability; index as in `frame`.

        With intervals also `<target>_low` and `<target>_high`; with sets of classes `<target>_set`, the names of the classes that
        may be the truth as a JSON list.
        """
        return self.output_frame(self.raw_prediction(frame)).set_axis(frame.index, axis="index")

    def output_frame(self, raw: np.ndarray) -> pd.DataFrame:
        """What `predict_frame` gives, of float (n, outputs) that `predict_rows` gave."""
        target = self.schema.target
        columns: dict[str, np.ndarray] = {}
        for name, values in self.task.output_frame(self.post.calibrated(raw)).items():
            columns[str(name)] = values.to_numpy()
        if self.classes:
            columns[target] = np.asarray(self.classes, dtype=object)[self.post.decided(raw)]
        found = self.post.interval(raw)
        if isinstance(found, tuple):
            columns[f"{target}_low"], columns[f"{target}_high"] = found
        elif found is not None:
            sets = [[c for c, inside in zip(self.classes, row, strict=True) if inside] for row in found]
            columns[f"{target}_set"] = np.array([json.dumps(s, ensure_ascii=False) for s in sets], dtype=object)
        return pd.DataFrame(columns)

    def raw_prediction(self, frame: pd.DataFrame) -> np.ndarray:
        """float32 (n, outputs) of raw rows, before calibration."""
        row = typed_row(frame, self.schema) if len(frame) == 1 else None
        return self.predict_rows(coerce(frame, self.schema) if row is None else row)

    def predict_rows(self, frame: pd.DataFrame | TypedRow) -> np.ndarray:
        """float32 (n, outputs) of typed rows (`data.base.Rows.frame`), before calibration."""
        if not len(frame):
            return np.zeros((0, self.task.outputs), dtype=np.float32)
        if isinstance(frame, TypedRow) or not self._is_shared:
            return self._said_of(frame)
        threads = threads_for(len(frame), self.members[0].pipelines[0].threads)
        return by_shares(len(frame), threads, lambda rows: self._said_of(frame.iloc[rows]))

    @cached_property
    def _is_shared(self) -> bool:
        """Whether threads share the rows: texts and images are read by libraries that have threads of their own."""
        return not any(c.type in (ColumnType.TEXT, ColumnType.IMAGE) for c in self.schema.features)

    def _said_of(self, frame: pd.DataFrame | TypedRow) -> np.ndarray:
        with one_prediction():
            said = [m.predict(frame) for m in self.members]
        total = sum(m.weight * p for m, p in zip(self.members, said, strict=True))
        mass = sum(m.weight for m in self.members)
        if self.second is not None:
            first = np.stack([said[k] for k in self.second.inputs])
            total = total + self.second.weight * self.second.level.predict(first, cast(pd.DataFrame, frame))
            mass += self.second.weight
        return np.asarray(total / mass, dtype=np.float32)

    def set_threads(self, threads: int) -> None:
        """Threads a prediction may use. Until said otherwise 1 for a few rows, which is best for them, and for many all there are."""
        for member in self.members:
            for pipeline in member.pipelines:
                pipeline.set_threads(threads)
        if self.second is not None:
            self.second.level.set_threads(threads)
