"""What a text looks like, whatever it says: its length, words, digits, capitals and marks."""

from __future__ import annotations

import numpy as np

STATISTICS = 6


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
    out = np.full((len(values), STATISTICS), np.nan)
    for row, value in enumerate(values):
        if isinstance(value, str):
            out[row] = _statistics(value)
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
