"""The columns of typed rows as arrays: what every pipeline of a model would look up anew is looked up once a prediction."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from kubeautoml_trainer.features.again import within_prediction

_FEW = 16
"""Rows up to which pandas' price for a column is more than that for a table of objects, and for distinct values more than they save;
measured."""
_KEPT_ROWS = 100_000
"""Rows up to which what is worked out of columns is kept: of more it takes memory that may be short, and less of the time."""


class Columns:
    """Columns of `data.base.Rows.frame`, or of a `data.row.TypedRow`, by name; taken out when they are asked for, without a copy."""

    def __init__(self, frame: pd.DataFrame, arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """arrays: columns that are at hand already."""
        self._frame = frame
        self._arrays = dict(arrays or {})
        self._distinct: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._strings: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        """Rows."""
        return len(self._frame)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            self._arrays[name] = self._frame[name].to_numpy()
        return self._arrays[name]

    @property
    def are_few(self) -> bool:
        return len(self._frame) <= _FEW

    def distinct(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """int32 (n,), the place of each row's value among the distinct ones, -1 for a gap; these, object (k,)."""
        if name in self._distinct:
            return self._distinct[name]
        place, values = pd.factorize(self[name], use_na_sentinel=True)
        found = place.astype(np.int32), np.asarray(values, dtype=object)
        if len(self) <= _KEPT_ROWS:
            self._distinct[name] = found
        return found

    def strings(self, name: str) -> np.ndarray:
        """object (n,): texts as bytes of UTF-8, and none for what is none."""
        if name in self._strings:
            return self._strings[name]
        if self.are_few:
            made = _bytes(self[name])
        else:
            place, values = self.distinct(name)
            made = np.append(_bytes(values), b"")[place]  # -1, a gap, is the last; rows share what they say
        if len(self) <= _KEPT_ROWS:
            self._strings[name] = made
        return made


def _bytes(values: np.ndarray) -> np.ndarray:
    made = np.empty(len(values), dtype=object)
    made[:] = [v.encode() if isinstance(v, str) else b"" for v in values]
    return made


def columns_of(frame: pd.DataFrame) -> Columns:
    """The columns of rows that are predicted: within one prediction the same object for the same rows."""
    # it holds the rows, so that no others come to be at the same address meanwhile
    found = within_prediction(("columns", id(frame)), lambda: _columns(frame))
    return _columns(frame) if found is None else found


def _columns(frame: pd.DataFrame) -> Columns:
    if len(frame) > _FEW or not isinstance(frame, pd.DataFrame):
        return Columns(frame)
    # columns of objects: of a few rows ten times as fast as one by one
    return Columns(frame, dict(zip(frame.columns, frame.to_numpy(dtype=object).T, strict=True)))
