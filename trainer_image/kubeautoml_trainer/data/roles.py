"""Columns with a part of their own: the weight of rows, what belongs together, and what came when."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import DataError
from kubeautoml.api.pod import PodJob
from kubeautoml_trainer.data.target import find_column
from kubeautoml_trainer.data.values import (
    MAX_NUMBER,
    is_day_first,
    is_missing,
    is_textual,
    plain,
    shown,
    to_numbers,
    to_seconds,
    to_texts,
)


def time_of(raw: pd.DataFrame, job: PodJob) -> np.ndarray | None:
    """Numbers that grow with time, of the column the manifest names; None without one."""
    name = job.dataset.split.time_column
    return None if name is None else _time_order(find_column(name, raw, "spec.dataset.split.timeColumn"))


def weights_of(raw: pd.DataFrame, job: PodJob) -> np.ndarray | None:
    name = job.dataset.columns.weight
    if name is None:
        return None
    found = find_column(name, raw, "spec.dataset.columns.weight")
    parsed = to_numbers(found)
    wrong = parsed.bad | ~np.isfinite(parsed.values) | (parsed.values < 0) | (parsed.values > MAX_NUMBER)
    rule = f"spec.dataset.columns.weight: column '{name}' must hold numbers of at least 0"
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(f"{rule}, got {shown(found.iloc[row])} in row {row}", reason=Reason.INVALID_DATA)
    if not parsed.values.any():
        raise DataError(f"{rule}, and not only 0", reason=Reason.INVALID_DATA)
    return np.asarray(parsed.values / parsed.values.mean())


def groups_of(raw: pd.DataFrame, name: str | None) -> np.ndarray | None:
    """Groups as text; rows without one form a group of their own."""
    if name is None:
        return None
    texts = to_texts(find_column(name, raw, "spec.dataset.split.groupColumn")).values
    return np.array(["" if t is None else t for t in texts], dtype=object)


def _time_order(time: pd.Series) -> np.ndarray:
    """Numbers that grow with time; unknown times come first."""
    time = plain(time)
    parsed = to_numbers(time)
    if parsed.any_bad:
        parsed = to_seconds(time, day_first=is_textual(time) and is_day_first(time[~is_missing(time)]))
    if parsed.any_bad or np.isnan(parsed.values).all():
        row = int(np.flatnonzero(parsed.bad)[0]) if parsed.any_bad else 0
        raise DataError(
            f"spec.dataset.split.timeColumn: column '{time.name}' must hold dates or numbers, "
            f"got {shown(time.iloc[row])} in row {row}",
            reason=Reason.INVALID_DATA,
        )
    return np.asarray(np.nan_to_num(parsed.values, nan=-np.inf, posinf=np.inf, neginf=-np.inf))
