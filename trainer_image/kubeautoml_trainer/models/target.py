"""How a regression target is written for models that want it near 0 and 1, and how it is read back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.data.base import Rows, Schema

_FILE = "target.json"


@dataclass(frozen=True)
class NumberTarget:
    """encoded = (y or log(1 + y) - center) / scale; decoded values stay in [low, high] where those are given."""

    log: bool
    center: float
    scale: float
    low: float | None
    high: float | None

    def encode(self, y: np.ndarray) -> np.ndarray:
        return ((np.log1p(y) if self.log else y) - self.center) / self.scale

    def decode(self, encoded: np.ndarray) -> np.ndarray:
        """float32 (n, 1) of encoded float (n,)."""
        value = encoded.astype(np.float64) * self.scale + self.center
        value = np.expm1(np.minimum(value, 700.0)) if self.log else value
        bounded = value if self.low is None and self.high is None else np.clip(value, self.low, self.high)
        return bounded.astype(np.float32)[:, None]


def number_target(
    y: np.ndarray, weight: np.ndarray | None, metric: str, standardise: bool, bounded: bool
) -> NumberTarget:
    """Choose by metric: a relative one (Rmsle) is learned in logarithms, if no target is negative.

    Args:
        bounded: keep predictions inside the training range.
    """
    log = metric == "Rmsle" and bool(np.all(y >= 0))
    z = np.log1p(y) if log else y
    center = float(np.average(z, weights=weight)) if standardise else 0.0
    spread = float(np.sqrt(np.average((z - center) ** 2, weights=weight))) if standardise else 1.0
    low, high = (float(y.min()), float(y.max())) if bounded else (None, None)
    return NumberTarget(log, center, spread if spread > 0 else 1.0, low, high)


def standard_target(train: Rows, schema: Schema, metric: str, *, bounded: bool) -> NumberTarget | None:
    """A number brought to mean 0 and deviation 1; None for classes. bounded: as in `number_target`."""
    if schema.classes:
        return None
    return number_target(train.y, train.weight, metric, standardise=True, bounded=bounded)


def save_target(target: NumberTarget | None, folder: Path) -> None:
    """Write `target.json`; None says that the task has classes."""
    (folder / _FILE).write_text(json.dumps(None if target is None else asdict(target)), encoding="utf-8")


def load_target(folder: Path) -> NumberTarget | None:
    """Read what `save_target` wrote.

    Raises:
        BundleError: absent or damaged.
    """
    try:
        stored = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        return None if stored is None else NumberTarget(**stored)
    except (OSError, ValueError, TypeError) as error:
        raise BundleError(f"{folder / _FILE} cannot be read: {error!r}") from error
