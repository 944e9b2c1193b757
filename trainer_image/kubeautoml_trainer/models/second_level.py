"""The second level: what the models of the first level say of a row, put right by a few numbers or by small trees.

It starts from a weighted mean of the first level and learns only what to add to it, so that one that learned nothing is that mean.
Fitted by `ensemble.stacking`, stored in a bundle, used by `Model`. Needs numpy, and LightGBM where there are trees.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.features import Features, load_features
from kubeautoml_trainer.models.cores import threads_for
from kubeautoml_trainer.models.lightgbm_scores import BoosterScores

Scale = Literal["probabilities", "numbers", "logarithms"]
"""What predictions are before anything is added to them: log-odds (of two classes) or logarithms of probabilities; numbers as they
are; log(1 + number)."""

FORMAT = 1
_JSON, _ARRAYS, _TREES = "second.json", "second.safetensors", "lightgbm.txt"
_FLOOR = float(np.finfo(np.float32).eps)
_SCALES = ("probabilities", "numbers", "logarithms")


def margins(prediction: np.ndarray, scale: Scale) -> np.ndarray:
    """float64 (..., margins) of float (..., outputs): one margin for numbers and for two classes, else one a class.

    >>> margins(np.array([[0.25, 0.75]]), "probabilities").round(3).tolist()
    [[1.099]]
    """
    p = np.asarray(prediction, dtype=np.float64)
    if scale == "numbers":
        return p
    if scale == "logarithms":
        return np.asarray(np.log1p(np.maximum(p, 0.0)))
    logs = np.log(np.clip(p, _FLOOR, 1.0))
    return np.asarray(logs[..., 1:] - logs[..., :1] if p.shape[-1] == 2 else logs)


def predictions(margin: np.ndarray, scale: Scale) -> np.ndarray:
    """float64 (n, outputs) of margins (n, margins); undoes `margins`."""
    if scale == "numbers":
        return margin
    if scale == "logarithms":
        return np.asarray(np.expm1(np.minimum(margin, 700.0)))
    z = np.hstack([np.zeros_like(margin), margin]) if margin.shape[1] == 1 else margin
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def mean_margin(first: np.ndarray, base: np.ndarray, scale: Scale) -> np.ndarray:
    """float64 (n, margins) of the weighted mean. first: float (models, n, outputs); base: float (models,), sums to 1."""
    return margins(np.tensordot(base, np.asarray(first, dtype=np.float64), axes=1), scale)


def added_columns(first: np.ndarray, mean: np.ndarray, scale: Scale) -> np.ndarray:
    """float64 (models + 2, n, margins): how far each model is from the mean, the mean, and ones."""
    away = margins(first, scale) - mean
    return np.concatenate([away, mean[None], np.ones_like(mean)[None]])


@dataclass
class SecondLevel:
    """base: float64 (models,), the weights of the mean. coefficients: float64 (models + 2, margins), what is added of
    `added_columns`; None for nothing. trees: a LightGBM model whose raw score is added, as text, with the features it sees; or None.
    """

    base: np.ndarray
    scale: Scale
    coefficients: np.ndarray | None = None
    trees: str | None = field(default=None, repr=False)
    features: Features | None = field(default=None, repr=False)
    threads: int | None = field(default=None, init=False)
    _booster: BoosterScores | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.trees is not None:
            import lightgbm as lgb

            try:
                self._booster = BoosterScores(self.trees)
            except lgb.basic.LightGBMError as error:
                raise BundleError(f"{_TREES} is not a LightGBM model: {error}") from error

    @property
    def kind(self) -> str:
        """How it learns, in a word."""
        return "Trees" if self.trees is not None else "Linear"

    def set_threads(self, threads: int) -> None:
        """Threads a prediction may use; until said otherwise 1 for a few rows and all there are for many."""
        self.threads = threads

    def predict(self, first: np.ndarray, frame: pd.DataFrame) -> np.ndarray:
        """float64 (n, outputs).

        Args:
            first: float (models, n, outputs), what each model of the first level predicts.
            frame: the same rows, typed.
        """
        mean = mean_margin(first, self.base, self.scale)
        added = added_columns(first, mean, self.scale)
        margin = mean
        if self.coefficients is not None:
            margin = margin + np.einsum("knc,kc->nc", added, self.coefficients)
        if self._booster is not None and self.features is not None:
            x = tree_columns(added, self.features.transform(frame).numbers)
            margin = margin + self._booster.scores(x, threads_for(len(x), self.threads)).reshape(mean.shape)
        return predictions(margin, self.scale)

    def save(self, folder: Path) -> None:
        """Write everything needed to predict into an empty folder."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        body = {"format": FORMAT, "scale": self.scale, "kind": self.kind}
        (folder / _JSON).write_text(json.dumps(body), encoding="utf-8")
        arrays = {"base": np.ascontiguousarray(self.base, dtype=np.float64)}
        if self.coefficients is not None:
            arrays["coefficients"] = np.ascontiguousarray(self.coefficients, dtype=np.float64)
        save_file(arrays, str(folder / _ARRAYS))
        if self.trees is not None and self.features is not None:
            (folder / _TREES).write_text(self.trees, encoding="utf-8")
            self.features.save(folder)


def tree_columns(added: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """float64 (n, columns), what trees see: the mean, how far each model is from it, then the encoded columns of the row."""
    said = added[:-1]
    flat = np.moveaxis(said, 0, 1).reshape(said.shape[1], -1)
    return np.hstack([flat, numbers])


def load_second_level(folder: Path) -> SecondLevel:
    """Read what `SecondLevel.save` wrote.

    Raises:
        BundleError: absent, damaged, or written by another version.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        body = json.loads((folder / _JSON).read_text(encoding="utf-8"))
        arrays = load_file(str(folder / _ARRAYS))
        trees = (folder / _TREES).read_text(encoding="utf-8") if (folder / _TREES).exists() else None
    except (OSError, ValueError, SafetensorError) as error:
        raise BundleError(f"{folder} is no second level: {error}; the model is damaged, train it again") from error
    if not isinstance(body, dict) or body.get("format") != FORMAT or body.get("scale") not in _SCALES:
        raise BundleError(
            f"{folder / _JSON} must have format {FORMAT}; it was written by another version of kubeautoml"
        )
    base, coefficients = arrays.get("base"), arrays.get("coefficients")
    is_whole = (trees is not None) == (body.get("kind") == "Trees")
    if base is None or not is_whole or (coefficients is not None and len(coefficients) != len(base) + 2):
        raise BundleError(f"{folder / _ARRAYS} does not hold a second level; the model is damaged, train it again")
    features = load_features(folder) if trees is not None else None
    return SecondLevel(base, body["scale"], coefficients, trees, features)
