"""Fitted features and a fitted model as one thing: predict, save into a folder, load from it.

A folder holds `pipeline.json` (format, family, parameters, best iteration), the features' files, and the model's,
which are native booster files, safetensors or JSON. Loading is strict and imports neither torch nor anything of the
search.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kubeautoml.api.errors import BundleError, UsageError
from kubeautoml_trainer.features import Features, load_features
from kubeautoml_trainer.models.base import Family, FittedModel, Pipeline
from kubeautoml_trainer.models.cores import threads_for
from kubeautoml_trainer.models.space import Parameters

FORMAT = 1
_FILE = "pipeline.json"


@dataclass
class FittedPipeline:
    """What `Family.fit` returns."""

    family: str
    parameters: Parameters
    best_iteration: int | None
    features: Features
    model: FittedModel
    threads: int | None = field(default=None, init=False)

    def set_threads(self, threads: int) -> None:
        self.threads = threads

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """float32 (n, outputs)."""
        return self.model.predict(self.features.transform(frame), threads_for(len(frame), self.threads))

    def lean(self) -> FittedPipeline:
        """The same in fewer bytes, where its family can make it so: it predicts next to the same."""
        lean = getattr(self.model, "lean", None)
        return self if lean is None else replace(self, model=lean())

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        described = {
            "format": FORMAT,
            "family": self.family,
            "parameters": dict(self.parameters),
            "bestIteration": self.best_iteration,
        }
        (folder / _FILE).write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")
        self.features.save(folder)
        self.model.save(folder)


def predict_all(pipeline: Pipeline, frame: pd.DataFrame, outputs: int) -> np.ndarray:
    """float32 (n, outputs) of typed rows, which may be none: libraries stumble over those, each in its own way."""
    return pipeline.predict(frame) if len(frame) else np.zeros((0, outputs), dtype=np.float32)


def load_pipeline(folder: Path) -> FittedPipeline:
    """Read what `FittedPipeline.save` wrote.

    Raises:
        BundleError: absent, damaged, of an unknown family, or written by a newer version.
    """
    described = _read(folder)
    family = _family(described)
    return FittedPipeline(
        family.name, described["parameters"], described["bestIteration"], load_features(folder), family.load(folder)
    )


def _read(folder: Path) -> dict[str, Any]:
    try:
        described = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder / _FILE} cannot be read: {error}; the model is damaged, train it again") from error
    expected = {"format", "family", "parameters", "bestIteration"}
    if not isinstance(described, dict) or described.get("format") != FORMAT or set(described) != expected:
        rule = f"must have format {FORMAT} and the members {', '.join(sorted(expected))}"
        raise BundleError(f"{folder / _FILE} {rule}; it was written by another version of kubeautoml")
    return described


def _family(described: dict[str, Any]) -> Family:
    from kubeautoml_trainer.models import family_named  # the families import this module

    try:
        return family_named(described["family"])
    except UsageError as error:
        raise BundleError(f"{_FILE}: {error}") from error
