"""Columns of texts: how much of a text is read, and which column of a text task holds its texts."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from kubeautoml.api.conditions import Reason
from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.errors import DataError
from kubeautoml_trainer.data.base import Column
from kubeautoml_trainer.data.values import to_texts

READ_CHARACTERS = 20_000
"""Of one text; what follows is not read, in training and in the server alike. About ten pages: a guess that bounds time and memory
where one text in a thousand is a whole book."""

_SAMPLED = 2_000  # texts that tell how many words a column's texts have
_WORDY = (ColumnType.CATEGORY, ColumnType.IDENTIFIER, ColumnType.CONSTANT, ColumnType.BOOLEAN)


def read_part(values: np.ndarray) -> np.ndarray:
    """The part of each text that is read: object (n,) of str or None; the same array where no text is longer."""
    if all(v is None or len(v) <= READ_CHARACTERS for v in values):
        return values
    return np.array([v if v is None else v[:READ_CHARACTERS] for v in values], dtype=object)


def long_texts(name: str, values: np.ndarray) -> list[str]:
    """A sentence where texts are not read whole."""
    long = sum(v is not None and len(v) > READ_CHARACTERS for v in values)
    if not long:
        return []
    return [
        f"column '{name}' holds {long} texts of more than {READ_CHARACTERS:,} characters; the rest of each is ignored: "
        "cut them so that what matters comes first"
    ]


def column_of_texts(columns: Sequence[Column], raw: pd.DataFrame, said: Collection[str]) -> str | None:
    """The column that a text task is about; None where one is of type Text already.

    Texts that are short or come again and again look like categories, and single words like names; what the task says counts
    more. Of several such columns it is the one with most words.

    Args:
        said: names of the columns whose type the manifest says.

    Raises:
        DataError: no column holds texts.
    """
    if any(c.type is ColumnType.TEXT for c in columns):
        return None
    words = {c.name: _words(raw[c.name]) for c in columns if c.type in _WORDY and c.name not in said}
    wordy = {name: count for name, count in words.items() if count > 0}
    if not wordy:
        found = ", ".join(f"{c.name} ({c.type.value})" for c in columns[:10]) or "none"
        raise DataError(
            f"a text task needs a column of texts, found: {found}; name it in spec.dataset.columns.types as Text, "
            "or use a tabular task",
            reason=Reason.INVALID_DATA,
        )
    return max(wordy, key=lambda name: wordy[name])


def _words(raw: pd.Series) -> float:
    """Mean words of a value, with a little for their letters; 0 where no value has a letter."""
    values = to_texts(raw.iloc[:: max(1, len(raw) // _SAMPLED)]).values
    texts = [v for v in values if v is not None]
    if not any(c.isalpha() for v in texts for c in v):
        return 0.0
    return float(np.mean([len(v.split()) + len(v) / 1000 for v in texts]))
