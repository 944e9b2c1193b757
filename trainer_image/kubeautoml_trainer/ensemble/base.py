"""What an ensemble is made of: candidates with their out-of-fold predictions, and the weights a selection gave them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from kubeautoml_trainer.models.second_level import SecondLevel


@dataclass(frozen=True)
class Cost:
    """What a member adds to a model: time for one row, and bytes."""

    latency_ms: float = 0.0
    size_bytes: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.latency_ms + other.latency_ms, self.size_bytes + other.size_bytes)

    def fits(self, limit: Cost) -> bool:
        """Whether no part is above the limit's."""
        return self.latency_ms <= limit.latency_ms and self.size_bytes <= limit.size_bytes


UNLIMITED = Cost(float("inf"), float("inf"))


@dataclass(frozen=True)
class Candidate:
    """A finished trial that may become a member."""

    trial: int
    family: str
    value: float
    """Cross-validated objective."""
    oof: np.ndarray = field(repr=False, compare=False)
    """Out-of-fold predictions, float (n, outputs); NaN where a row was never validated."""
    cost: Cost = Cost()
    predict_seconds: float = 0.0
    """As in its `TrialRecord`; 0 where time must not decide."""


@dataclass(frozen=True)
class Second:
    """A second level that won its place (see `ensemble.stacking`)."""

    weight: float
    """In the final mean, above 0 and at most 1."""
    inputs: tuple[int, ...]
    """Numbers of the trials whose predictions it takes, in its order."""
    level: SecondLevel = field(repr=False)
    oof: np.ndarray = field(repr=False, compare=False)
    """float32 (n, outputs) of rows it was not fitted on; NaN where it was not tried."""
    value: float
    """Cross-validated objective, on nested folds."""
    first_weights: dict[int, float]
    """What the greedy ensemble weighed without it; sums to 1."""
    note: str
    """By how much it won."""
    seconds: float
    """What fitting took, all folds."""


@dataclass(frozen=True)
class Selection:
    """The members and what they reach together. `weights` sum to 1, largest first; with a second level, its weight is a part of
    that 1, and members that only it needs weigh 0.
    """

    weights: dict[int, float]
    """Trial number -> weight."""
    value: float
    """Objective of the weighted mean on the rows used."""
    best_single: float
    """Objective of the best candidate alone on the same rows."""
    rows: int
    """Rows on which all candidates have a prediction."""
    steps: int
    """Picks, with repetition, that the weights are made of; of several selections the most."""
    second: Second | None = None

    @property
    def first_weights(self) -> dict[int, float]:
        """The weights of the ensemble without a second level; they sum to 1."""
        return self.weights if self.second is None else self.second.first_weights


def weighted_mean(predictions: Mapping[int, np.ndarray], weights: Mapping[int, float]) -> np.ndarray:
    """float32 (n, outputs)."""
    total = sum(w * predictions[n].astype(np.float64) for n, w in weights.items())
    return np.asarray(total, dtype=np.float32)


def combined_oof(oof: Mapping[int, np.ndarray], weights: Mapping[int, float], second: Second | None) -> np.ndarray:
    """float32 (n, outputs) of rows that no part was fitted on; NaN where a part has none."""
    if second is None:
        return weighted_mean(oof, weights)
    every = {n: w for n, w in weights.items() if w > 0}
    total = second.weight * second.oof.astype(np.float64)
    for n, w in every.items():
        total = total + w * oof[n].astype(np.float64)
    return np.asarray(total, dtype=np.float32)


def combined(
    said: Mapping[int, np.ndarray], weights: Mapping[int, float], second: Second | None, frame: pd.DataFrame
) -> np.ndarray:
    """float32 (n, outputs) of the members' predictions of typed rows, the way a loaded model combines them.

    Trees of a second level may jump where their columns differ in the last bit, so the order of the sums matters.
    """
    total = sum(w * said[n].astype(np.float64) for n, w in weights.items())
    if second is not None and len(frame):
        first = np.stack([said[n].astype(np.float64) for n in second.inputs])
        total = total + second.weight * second.level.predict(first, frame)
    return np.asarray(total, dtype=np.float32)
