"""Sums, differences, products and ratios of two numbers, chosen by what they say beyond the two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kubeautoml_trainer.features.choose import Sample, binned_gain, keep_unlike

MAX_CANDIDATES = 2_000  # as AutoGluon's arithmetic generator
_BLOCK = 64
OPERATIONS = ("add", "subtract", "multiply", "divide")


@dataclass(frozen=True)
class Arithmetic:
    """left, right: intp (m,), positions among the numbers. operation: intp (m,), positions in `OPERATIONS`,
    increasing.

    >>> two = Arithmetic(np.array([0, 0]), np.array([1, 1]), np.array([2, 3]))
    >>> two.apply(np.array([[6.0, 3.0], [1.0, 0.0]]))
    array([[18.,  2.],
           [ 0., nan]])
    """

    left: np.ndarray
    right: np.ndarray
    operation: np.ndarray

    def apply(self, x: np.ndarray) -> np.ndarray:
        """float64 (n, k) with NaN -> float64 (n, m); NaN where the result is no finite number."""
        out = np.empty((len(x), len(self.left)))
        ends = np.searchsorted(self.operation, np.arange(len(OPERATIONS) + 1))
        with np.errstate(all="ignore"):
            for k, name in enumerate(OPERATIONS):
                part = slice(ends[k], ends[k + 1])
                if ends[k] < ends[k + 1]:
                    out[:, part] = getattr(np, name)(x[:, self.left[part]], x[:, self.right[part]])
        out[~np.isfinite(out)] = np.nan
        return out


def fit_arithmetic(sample: Sample, usable: np.ndarray, most: int) -> Arithmetic | None:
    """Choose up to `most` of at most `MAX_CANDIDATES` candidates over the numbers at these positions (intp), which
    should have more than two values.

    A candidate's worth is its gain on what quick trees leave, less its parents'; of candidates with the same ranks
    one is kept.
    """
    candidates = _candidates(usable[np.argsort(-sample.number_use[usable], kind="stable")])
    if candidates is None or not sample.residual.shape[1]:
        return None
    alone = binned_gain(sample.numbers, sample.residual)
    worth = np.full(len(candidates.left), -np.inf)
    for first in range(0, len(worth), _BLOCK):
        if sample.is_late:
            break
        part = slice(first, first + _BLOCK)
        parents = np.maximum(alone[candidates.left[part]], alone[candidates.right[part]])
        worth[part] = binned_gain(_some(candidates, part).apply(sample.numbers), sample.residual) - parents
    order = np.argsort(-worth, kind="stable")
    order = order[worth[order] > 0][: 4 * most]
    if not len(order):
        return None
    good = _some(candidates, order)
    made = Arithmetic(good.left, good.right, good.operation)
    # `apply` wants operations in order
    by_operation = np.argsort(made.operation, kind="stable")
    made = _some(made, by_operation)
    best_first = np.argsort(by_operation, kind="stable")
    kept = keep_unlike(made.apply(sample.numbers), best_first, most)
    return _some(made, np.sort(kept))


def _candidates(usable: np.ndarray) -> Arithmetic | None:
    """All pairs of as many numbers, the most used first, as the limit allows; both ways round for ratios."""
    pairs = MAX_CANDIDATES // 5
    numbers = min(len(usable), int((1 + np.sqrt(1 + 8 * pairs)) // 2))
    if numbers < 2:
        return None
    a, b = np.triu_indices(numbers, 1)
    left, right = usable[a], usable[b]
    operation = np.repeat(np.array([0, 1, 2, 3, 3], dtype=np.intp), len(a))
    return Arithmetic(
        np.concatenate([left, left, left, left, right]), np.concatenate([right, right, right, right, left]), operation
    )


def _some(a: Arithmetic, index: np.ndarray | slice) -> Arithmetic:
    return Arithmetic(a.left[index], a.right[index], a.operation[index])
