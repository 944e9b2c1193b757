"""All products of two scaled numbers, squares among them, for models that cannot multiply."""

from __future__ import annotations

import numpy as np

MAX_NUMBERS = 30
"""More would give more than 465 products."""


def products(x: np.ndarray) -> np.ndarray:
    """float64 (n, k) -> float64 (n, k * (k + 1) / 2).

    >>> products(np.array([[2.0, 3.0]]))
    array([[4., 6., 9.]])
    """
    left, right = np.triu_indices(x.shape[1])
    return np.asarray(x[:, left] * x[:, right])
