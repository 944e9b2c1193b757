"""A loaded bundle: raw rows in, predictions out. The one way in which anything predicts: notebook, batch, server, finalizer."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kubeautoml.api.errors import BundleError
from kubeautoml.api.metrics import TaskType
from kubeautoml.storage import open_store
from kubeautoml_trainer.bundle.files import INDEX, parse_index, read_index
from kubeautoml_trainer.data.base import Schema
from kubeautoml_trainer.data.schema import coerce, schema_from_json
from kubeautoml_trainer.models.base import Pipeline
from kubeautoml_trainer.models.pipeline import load_pipeline
from kubeautoml_trainer.tasks import task_for
from kubeautoml_trainer.tasks.base import Task

SCHEMA = "schema.json"


@dataclass(frozen=True)
class Member:
    """A trial in the ensemble: its weight and the pipelines of its folds, which count equally."""

    weight: float
    family: str
    pipelines: tuple[Pipeline, ...]

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """float64 (n, outputs), the mean over folds."""
        total = sum(p.predict(frame).astype(np.float64) for p in self.pipelines)
        return np.asarray(total / len(self.pipelines))


@dataclass(frozen=True)
class Model:
    """A trained model. `card` holds name, metrics, members and lineage, as JSON values."""

    schema: Schema
    task: Task
    members: tuple[Member, ...] = field(repr=False)
    card: dict[str, Any] = field(repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels, in the order of the probability columns; empty for numbers."""
        return self.schema.classes

    def raw_prediction(self, rows: pd.DataFrame) -> np.ndarray:
        """float32 (n, outputs): probabilities that sum to 1, or numbers.

        Raises:
            PredictionError: the rows do not fit the schema; names column, rule and value.
        """
        return self.predict_typed(coerce(rows, self.schema))

    def predict_typed(self, frame: pd.DataFrame) -> np.ndarray:
        """The same for rows that are typed already."""
        total = sum(m.weight * m.predict(frame) for m in self.members)
        return np.asarray(total, dtype=np.float32)

    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        """Class labels (str) or numbers, (n,)."""
        return self.task.labels(self.raw_prediction(rows))

    def predict_proba(self, rows: pd.DataFrame) -> np.ndarray:
        """float32 (n, classes).

        Raises:
            TypeError: the model predicts numbers.
        """
        if not self.classes:
            raise TypeError(f"this model predicts the number '{self.schema.target}' and has no classes; use predict")
        return self.raw_prediction(rows)

    def predict_frame(self, rows: pd.DataFrame) -> pd.DataFrame:
        """A column named like the target and, for classes, one `<target>_<class>` of probability each."""
        return self.task.output_frame(self.raw_prediction(rows))

    def set_threads(self, threads: int) -> None:
        """How many threads a prediction may use; 1 (best for single rows) until said otherwise."""
        for member in self.members:
            for pipeline in member.pipelines:
                pipeline.set_threads(threads)


def load_bundle(uri: str | Path, credentials_dir: Path | None = None, sha256: str | None = None) -> Model:
    """Load a model from a folder, a file:// or an s3:// URI. Strict: every file is checked against the bundle's own list.

    Args:
        sha256: digest that `bundle.json` must have; pins one version.

    Raises:
        BundleError: the model is damaged, foreign, or newer than this code.
        StorageError: it cannot be read.
    """
    text = str(uri).rstrip("/")
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" not in text:
        return _from_folder(Path(text), sha256)
    with tempfile.TemporaryDirectory(prefix="kubeautoml-model-") as folder:
        _download(text, Path(folder), credentials_dir)
        # everything is in memory after loading, so the copy may go
        return _from_folder(Path(folder), sha256)


def _download(uri: str, folder: Path, credentials_dir: Path | None) -> None:
    """Exactly the files that `bundle.json` names."""
    store = open_store(uri, credentials_dir)
    data = store.read(f"{uri}/{INDEX}")
    (folder / INDEX).write_bytes(data)
    for name in parse_index(data)["files"]:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        store.download(f"{uri}/{name}", target)


def _from_folder(folder: Path, sha256: str | None) -> Model:
    body = read_index(folder, sha256)
    try:
        schema = schema_from_json((folder / SCHEMA).read_text(encoding="utf-8"))
        task = task_for(TaskType(body["task"]), schema)
        members = tuple(_member(folder, m) for m in body["members"])
        card = body["card"]
    except (KeyError, ValueError, OSError) as error:
        raise BundleError(f"{INDEX} is damaged: {type(error).__name__}: {error}; train the model again") from error
    return Model(schema, task, members, card)


def _member(folder: Path, body: dict[str, Any]) -> Member:
    pipelines = tuple(load_pipeline(folder / name) for name in body["pipelines"])
    return Member(float(body["weight"]), str(body["family"]), pipelines)
