"""LightGBM for quantiles: a booster each, put in order where they cross. Called by `models.lightgbm`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.features import Encoded
from kubeautoml_trainer.models.leaf_values import LEAN, lightgbm_leaves
from kubeautoml_trainer.models.lightgbm_scores import BoosterScores
from kubeautoml_trainer.models.packed import read_packed, write_packed

FILE = "lightgbm-quantiles.json.zst"


@dataclass(frozen=True)
class QuantileBoosters:
    """boosters: one a quantile, rising."""

    boosters: tuple[BoosterScores, ...] = field(repr=False)

    def predict(self, x: Encoded, threads: int = 1) -> np.ndarray:
        """float32 (n, quantiles), rising in each row (Chernozhukov et al. 2010, arXiv:0704.3649: sorting only helps)."""
        each = [booster.scores(x.numbers, threads) for booster in self.boosters]
        return np.sort(np.stack(each, axis=1), axis=1).astype(np.float32)

    def save(self, folder: Path) -> None:
        write_packed(folder / FILE, json.dumps([booster.text for booster in self.boosters]).encode())

    def lean(self) -> QuantileBoosters:
        return quantile_boosters(tuple(lightgbm_leaves(booster.text, LEAN) for booster in self.boosters))


def quantile_boosters(texts: tuple[str, ...]) -> QuantileBoosters:
    """Boosters that hold only what prediction needs; raises BundleError for text that is no model."""
    import lightgbm as lgb

    try:
        return QuantileBoosters(tuple(BoosterScores(text) for text in texts))
    except lgb.basic.LightGBMError as error:
        raise BundleError(f"{FILE} is not a list of LightGBM models: {error}") from error


def load_quantile_boosters(folder: Path) -> QuantileBoosters:
    """Read what `QuantileBoosters.save` wrote.

    Raises:
        BundleError: damaged.
    """
    try:
        texts = json.loads(read_packed(folder / FILE))
    except ValueError as error:
        raise BundleError(f"{folder / FILE} cannot be read: {error}") from error
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise BundleError(f"{folder / FILE} must be a list of LightGBM models")
    return quantile_boosters(tuple(texts))
