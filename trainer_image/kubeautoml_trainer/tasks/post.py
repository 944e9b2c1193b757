"""What is done to the raw prediction of a model when it predicts: calibration, decision, intervals. Light: numpy only.

Fitted by `ensemble.post.fit_post` on out-of-fold predictions, stored in a bundle as JSON, used by `Model` and the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

FLOOR = float(np.finfo(np.float32).eps)
"""Probabilities are told apart down to here, as float32 stores them."""
RANK_SHARE = 0.01
"""Share of the uncalibrated probability in an isotonic one: keeps equal what was equal and unequal what was unequal."""


@dataclass(frozen=True)
class Calibration:
    """Better probabilities, by `slope` and `shift` on their logarithms, then by a rising curve through points.

    slope: above 0; 1 / temperature. shift: one a class, or empty. curve_from, curve_to: rising probabilities of the second class,
    for two classes only; empty for no curve.
    """

    slope: float = 1.0
    shift: tuple[float, ...] = ()
    curve_from: tuple[float, ...] = ()
    curve_to: tuple[float, ...] = ()

    def __call__(self, prediction: np.ndarray) -> np.ndarray:
        """float64 (n, classes), rows sum to 1, of probabilities alike.

        >>> Calibration(slope=2.0)(np.array([[0.25, 0.75]])).round(3).tolist()
        [[0.1, 0.9]]
        """
        z = self.slope * np.log(np.clip(np.asarray(prediction, dtype=np.float64), FLOOR, 1.0))
        if self.shift:
            z = z + np.asarray(self.shift)
        z -= z.max(axis=1, keepdims=True)
        p = np.exp(z)
        p /= p.sum(axis=1, keepdims=True)
        if not self.curve_from:
            return p
        risen = (1 - RANK_SHARE) * np.interp(p[:, 1], self.curve_from, self.curve_to) + RANK_SHARE * p[:, 1]
        return np.stack([1 - risen, risen], axis=1)


@dataclass(frozen=True)
class Decision:
    """Which class to say: the largest of weight x probability; with costs the one that then costs least.

    weights: one a class, above 0, or empty for all alike. For two classes they are a threshold t: (t, 1 - t).
    costs: (actual, predicted), or empty.
    """

    weights: tuple[float, ...] = ()
    costs: tuple[tuple[float, ...], ...] = ()

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """int64 (n,).

        >>> Decision(weights=(0.2, 0.8))(np.array([[0.7, 0.3], [0.9, 0.1]])).tolist()
        [1, 0]
        """
        q = probabilities.astype(np.float64) * np.asarray(self.weights) if self.weights else probabilities
        if self.costs:
            return np.asarray(np.argmin(q @ np.asarray(self.costs, dtype=np.float64), axis=1), dtype=np.int64)
        return np.asarray(np.argmax(q, axis=1), dtype=np.int64)


@dataclass(frozen=True)
class Conformal:
    """How far the truth may be, from errors on rows the model was not fitted on.

    Numbers: the interval is [first output + below, last output + above], where `below` and `above` belong to the bin of the
    prediction (`edges` rise; one bin more than edges). Classes: class k is in the set where its probability is at least
    `least[k]`; a set may be empty (no class is likely enough) or hold all.
    """

    coverage: float
    edges: tuple[float, ...] = ()
    below: tuple[float, ...] = ()
    above: tuple[float, ...] = ()
    least: tuple[float, ...] = ()

    def __call__(self, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray] | np.ndarray:
        """(low, high), float64 (n,) each; or bool (n, classes)."""
        if self.least:
            return np.asarray(prediction >= np.asarray(self.least, dtype=np.float32))
        low, high = prediction[:, 0].astype(np.float64), prediction[:, -1].astype(np.float64)
        at = np.searchsorted(np.asarray(self.edges), middle(prediction), side="right")
        low, high = low + np.asarray(self.below)[at], high + np.asarray(self.above)[at]
        return np.minimum(low, high), np.maximum(low, high)


def middle(prediction: np.ndarray) -> np.ndarray:
    """float64 (n,): the middle column, which says where a row is."""
    return np.asarray(prediction[:, prediction.shape[1] // 2], dtype=np.float64)


@dataclass(frozen=True)
class Post:
    """All of it. With nothing in it the prediction stays as it is, and the most probable class is decided."""

    calibration: Calibration | None = None
    decision: Decision | None = None
    conformal: Conformal | None = None

    def calibrated(self, prediction: np.ndarray) -> np.ndarray:
        """float32 (n, outputs) of what the models give, alike in shape."""
        if self.calibration is None:
            return np.asarray(prediction, dtype=np.float32)
        return self.calibration(prediction).astype(np.float32)

    def decided(self, prediction: np.ndarray) -> np.ndarray:
        """int64 (n,): the class of each row, of what the models give."""
        return (self.decision or Decision())(self.calibrated(prediction))

    def interval(self, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray] | np.ndarray | None:
        """(low, high), float64 (n,) each; for classes bool (n, classes); None where none was asked for."""
        return None if self.conformal is None else self.conformal(self.calibrated(prediction))

    def to_json(self) -> dict[str, Any]:
        """Only what there is; {} for nothing."""
        return {f.name: _plain(asdict(part)) for f in fields(self) if (part := getattr(self, f.name)) is not None}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Post:
        """What `to_json` wrote.

        Raises:
            ValueError: unknown fields, or values that are no finite numbers.
        """
        unknown = sorted(set(body) - set(_PARTS))
        if unknown:
            raise ValueError(f"unknown fields {unknown}")
        return cls(**{name: _read(_PARTS[name], part) for name, part in body.items()})


_PARTS: dict[str, Any] = {"calibration": Calibration, "decision": Decision, "conformal": Conformal}


def _plain(part: dict[str, Any]) -> dict[str, Any]:
    """Tuples as lists, empty ones left out."""
    return {k: np.asarray(v, dtype=np.float64).tolist() for k, v in part.items() if v != ()}


def _read(kind: Any, part: Any) -> Any:
    if not isinstance(part, Mapping) or set(part) - {f.name for f in fields(kind)}:
        raise ValueError(f"{kind.__name__.lower()} must be an object of {[f.name for f in fields(kind)]}")
    made = {}
    for name, value in part.items():
        array = np.asarray(value, dtype=np.float64)
        if not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite numbers")
        made[name] = _tuples(array.tolist())
    try:
        return kind(**made)
    except TypeError as error:
        raise ValueError(str(error)) from error


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


IDENTITY = Post()
