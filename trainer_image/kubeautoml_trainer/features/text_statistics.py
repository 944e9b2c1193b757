"""What a text looks like, whatever it says: its length, words, digits, capitals and marks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kubeautoml_trainer.features.again import known

STATISTICS = 6
MOST_KEPT = 100_000
"""Texts that are kept for the next fold: 30 MB beside the texts. Of more the later ones are measured every time."""


@dataclass
class Measured:
    """What was measured of texts that come again."""

    most: int = MOST_KEPT
    _seen: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def of(self, text: str) -> tuple[float, ...]:
        """The six of a text."""
        found = self._seen.get(text)
        if found is None:
            found = _statistics(text)
            if len(self._seen) < self.most:
                self._seen[text] = found
        return found


_measured = Measured()
"""Of this process."""


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
    measured = known("statistics", len(values), _measured, Measured)
    of = _statistics if measured is None else measured.of
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
