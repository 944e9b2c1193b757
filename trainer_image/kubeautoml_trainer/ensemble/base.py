"""What an ensemble is made of: candidates with their out-of-fold predictions, and the weights a selection gave them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


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


@dataclass(frozen=True)
class Selection:
    """The members and what they reach together. `weights` sum to 1, largest first."""

    weights: dict[int, float]
    """Trial number -> weight."""
    value: float
    """Objective of the weighted mean on the rows used."""
    best_single: float
    """Objective of the best candidate alone on the same rows."""
    rows: int
    """Rows on which all candidates have a prediction."""
    steps: int
    """Picks, with repetition, that the weights are made of."""
