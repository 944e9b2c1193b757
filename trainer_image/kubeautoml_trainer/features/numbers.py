"""Numbers without gaps and on one scale, for models that need both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

QUANTILES = 256
SAMPLE = 50_000  # rows are enough for medians and quantiles
SKEWED = 0.99  # as in AutoGluon's linear model
_HUGE = 1e100  # the cube of more would not be a number any more
SMOOTH_CLIP = 3.0  # RealMLP-TD (Holzmüller et al. 2024, arXiv:2407.04491)


@dataclass(frozen=True)
class Scaling:
    """How k numbers are filled, moved and stretched.

    fill, center, scale: float64 (k,). gaps: positions that get an indicator column, behind the k numbers. quantile:
    positions that become normal scores by `references`, float64 (len(quantile), q). clip: smoothly into (-3, 3).
    """

    fill: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    gaps: np.ndarray
    quantile: np.ndarray
    references: np.ndarray
    clip: bool

    def apply(self, x: np.ndarray) -> np.ndarray:
        """float64 (n, k) with NaN -> float64 (n, k + gaps) without."""
        missing = np.isnan(x)
        filled = np.clip(np.where(missing, self.fill, x), -_HUGE, _HUGE)
        out = (filled - self.center) * self.scale
        for position, reference in zip(self.quantile, self.references, strict=True):
            out[:, position] = _normal_scores(filled[:, position], reference)
        if self.clip:
            out = out / np.sqrt(1 + (out / SMOOTH_CLIP) ** 2)
        return np.hstack([out, missing[:, self.gaps]])


def fit_scaling(x: np.ndarray, kind: str, gaps: np.ndarray | None = None) -> Scaling:
    """Learn from float64 (n, k) with NaN; `kind` as in `Recipe.scaling`. Of many rows every so-manieth is looked at.

    gaps: intp, positions that get an indicator; None for all that have gaps in these rows.
    """
    if gaps is None:
        gaps = np.flatnonzero(np.isnan(x).any(axis=0))
    x = x[:: max(1, len(x) // SAMPLE)]
    missing = np.isnan(x)
    fill = np.array([_median(column[~gap]) for column, gap in zip(x.T, missing.T, strict=True)], dtype=np.float64)
    filled = np.clip(np.where(missing, fill, x), -_HUGE, _HUGE)
    if kind == "unscaled":
        center, scale = np.zeros(x.shape[1]), np.ones(x.shape[1])
    else:
        center, scale = _robust(filled, fill) if kind == "robust" else _standard(filled)
    by_rank = np.flatnonzero(_ranked(filled, kind) & (scale > 0))
    references = np.quantile(filled[:, by_rank], np.linspace(0, 1, min(QUANTILES, max(len(x), 2))), axis=0).T
    return Scaling(fill, center, scale, gaps, by_rank, references, kind == "robust")


def _median(known: np.ndarray) -> float:
    return float(np.median(known)) if known.size else 0.0


def _ranked(filled: np.ndarray, kind: str) -> np.ndarray:
    """Which columns become normal scores, bool (k,)."""
    if kind == "quantile":
        return np.ones(filled.shape[1], dtype=bool)
    if kind != "skew":
        return np.zeros(filled.shape[1], dtype=bool)
    centred = filled - filled.mean(axis=0)
    deviation = np.sqrt(np.mean(centred**2, axis=0))
    skew = np.mean(centred**3, axis=0) / np.where(deviation > 0, deviation, 1.0) ** 3
    return np.asarray(np.abs(skew) > SKEWED)


def _standard(filled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    center, deviation = filled.mean(axis=0), filled.std(axis=0)
    return center, _inverse(deviation, np.abs(center))


def _robust(filled: np.ndarray, median: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interquartile range to 1; where it is 0, half the whole range."""
    low, high = np.quantile(filled, [0.25, 0.75], axis=0)
    whole = (filled.max(axis=0) - filled.min(axis=0)) / 2
    return median, _inverse(np.where(high > low, high - low, whole), np.abs(median))


def _inverse(width: np.ndarray, size: np.ndarray) -> np.ndarray:
    """1 / width; 0 for constant columns (up to rounding at their size)."""
    constant = width <= 1e-12 * np.maximum(size, 1e-300)
    return np.where(constant, 0.0, 1 / np.where(constant, 1.0, width))


def _normal_scores(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Rank among the training values as a normal score; ties take the middle of their ranks."""
    from scipy.special import ndtri

    share = np.linspace(0, 1, len(reference))
    below = np.interp(values, reference, share)
    above = 1 - np.interp(-values, -reference[::-1], share)
    return np.asarray(ndtri(np.clip((below + above) / 2, 1e-4, 1 - 1e-4)))
