"""A learning rate found by trying: the range test (Smith 2017, arXiv:1506.01186)."""

from __future__ import annotations

import math
from collections.abc import Callable

STEPS = 40
"""Of a test."""
WORTH = 10
"""A training must be so many times as long as the test, or the test is not worth its time; a guess."""
_LOW, _HIGH = 1e-5, 0.1  # as AdamW takes them
_SMOOTHING = 0.8  # of losses from step to step
_BURST = 2.0  # times the lowest loss: from here on it only gets worse
_BELOW = 4.0  # the rate taken lies so far below the one with the lowest loss, at which steps are as large as they may be; a guess


def range_test(step: Callable[[float], float], steps: int = STEPS) -> float | None:
    """The greatest rate that a training should have; None where no rate made the loss fall.

    Args:
        step: makes a step with a rate, and returns the loss before it.
    """
    smoothed, lowest, found, first = 0.0, math.inf, None, math.inf
    for k in range(steps):
        rate = _LOW * (_HIGH / _LOW) ** (k / max(1, steps - 1))
        loss = step(rate)
        if not math.isfinite(loss):
            break
        smoothed = _SMOOTHING * smoothed + (1 - _SMOOTHING) * loss
        seen = smoothed / (1 - _SMOOTHING ** (k + 1))
        first = min(first, seen) if k == 0 else first
        if seen > _BURST * lowest:
            break
        if seen < lowest:
            lowest, found = seen, rate
    return None if found is None or lowest >= first else found / _BELOW
