"""Gaps that say something: which columns get a 0/1 number for a missing value, because it goes with the target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_INDICATORS = 50
_Z = 3.0  # deviations by which the target must differ where a value is missing; a guess, about 1 in 400 by chance


def fit_indicators(missing: Sequence[np.ndarray], targets: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Choose columns by how the target differs where they have gaps; of columns with the same gaps, the first.

    Args:
        missing: one bool (n,) a column.
        targets: float64 (n, t).
        weight: float64 (n,).

    Returns:
        intp, positions among the columns, increasing.
    """
    centred = targets - np.average(targets, axis=0, weights=weight)
    spread = np.sqrt(np.average(centred**2, axis=0, weights=weight))
    centred = centred[:, spread > 0] / spread[spread > 0]
    scores: list[tuple[float, int]] = []
    seen: set[bytes] = set()
    for position, gap in enumerate(missing):
        if not gap.any() or gap.all() or not centred.shape[1]:
            continue
        pattern = np.packbits(gap).tobytes()
        if pattern in seen:
            continue
        seen.add(pattern)
        share = float(np.average(gap, weights=weight))
        if 0 < share < 1:
            apart = np.average(centred * gap[:, None], axis=0, weights=weight) / np.sqrt(share * (1 - share))
            scores.append((-float(np.abs(apart).max()) * np.sqrt(len(gap)), position))
    best = sorted(s for s in scores if s[0] < -_Z)[:MAX_INDICATORS]
    return np.array(sorted(position for _, position in best), dtype=np.intp)
