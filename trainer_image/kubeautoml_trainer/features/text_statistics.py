"""What a text looks like, whatever it says: its length, words, digits, capitals and marks."""

from __future__ import annotations

import numpy as np

from kubeautoml_trainer.features.again import Kept, known

STATISTICS = 6
MOST_KEPT = 100_000
"""Texts that are kept for the next fold: 30 MB beside the texts. Of more the later ones are measured every time."""


def text_statistics(values: np.ndarray) -> np.ndarray:
    """Measure texts.

    Args:
        values: object (n,) of str, or None for none.

    Returns:
        float64 (n, 6): characters and words (log(1 + count)), mean length of a word, shares of digits, of upper-case
        letters and of marks; NaN for missing texts.

    >>> text_statistics(np.array(["", None], dtype=object)).tolist()[0]
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    kept = known("statistics", len(values), _measured, measured)
    of = _statistics if kept is None else kept.of
    out = np.full((len(values), STATISTICS), np.nan)
    for row, value in enumerate(values):
        if isinstance(value, str):
            out[row] = of(value)
    return out


def _statistics(text: str) -> tuple[float, ...]:
    size, words = len(text), text.split()
    if not words:
        return (float(np.log1p(size)), 0.0, 0.0, 0.0, 0.0, 0.0)
    letters = sum(map(len, words))
    digits, upper = sum(map(str.isdigit, text)), sum(map(str.isupper, text))
    marks = letters - sum(map(str.isalnum, text))
    return (
        float(np.log1p(size)), float(np.log1p(len(words))), letters / len(words), digits / size, upper / size, marks / size
    )  # fmt: skip


def measured(most: int = MOST_KEPT) -> Kept[tuple[float, ...]]:
    """Keeps the six of each text."""
    return Kept(_statistics, most)


_measured = measured()
"""Of this process."""
