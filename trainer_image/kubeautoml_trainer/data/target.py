"""The target column: found, checked, and coded as numbers, with messages for everything that makes it unusable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from rapidfuzz import process

from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import DataError
from kubeautoml.api.job import Task
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.values import is_missing, to_numbers, to_seconds, to_texts

MAX_CLASSES = 1000
MIN_ROWS = 10
"""Fewer rows cannot be split into a hold-out and folds that mean anything; a guess."""

POSITIVE_WORDS = ("1", "yes", "true", "y", "t", "positive")


@dataclass(frozen=True)
class Target:
    """What the target column held.

    usable: bool (rows,), rows whose target is known.
    y: coded values of the usable rows; int64 for classes, float64 for numbers.
    """

    usable: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...] = ()
    positive_class: str | None = None
    warnings: tuple[str, ...] = ()


def find_column(name: str, frame: pd.DataFrame, field: str, reason: Reason = Reason.COLUMN_NOT_FOUND) -> pd.Series:
    """A column that the manifest names.

    Raises:
        DataError: it is not there; suggests the nearest name.
    """
    if name in frame.columns:
        return frame[name]
    names = [str(c) for c in frame.columns]
    near = process.extractOne(name, names, score_cutoff=60)
    hint = f"did you mean '{near[0]}'? " if near else ""
    shown = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
    raise DataError(f"{field}: column '{name}' is not in the data; {hint}columns: {shown}", reason=reason)


def read_target(frame: pd.DataFrame, task: Task) -> Target:
    """Check and code the target.

    Raises:
        DataError: it cannot be learned; the message says what to do.
    """
    raw = find_column(task.target, frame, "spec.task.target", Reason.TARGET_NOT_FOUND)
    missing = is_missing(raw)
    if missing.all():
        raise _unusable(task, "has no value in any row")
    warnings: tuple[str, ...] = ()
    if missing.any():
        warnings = (f"{int(missing.sum())} rows without a value of the target '{task.target}' are left out",)
    usable = ~missing
    if int(usable.sum()) < MIN_ROWS:
        raise DataError(
            f"the data must have at least {MIN_ROWS} rows with a value of '{task.target}', got {int(usable.sum())}",
            reason=Reason.TOO_FEW_ROWS,
        )
    read = _classes if task.type is TaskType.TABULAR_CLASSIFICATION else _numbers
    return read(raw, usable, task, warnings)


def _unusable(task: Task, what: str) -> DataError:
    return DataError(f"spec.task.target: column '{task.target}' {what}", reason=Reason.TARGET_UNUSABLE)


def _numbers(raw: pd.Series, usable: np.ndarray, task: Task, warnings: tuple[str, ...]) -> Target:
    parsed = to_numbers(raw[usable])
    if (parsed.any_bad or pd.api.types.is_datetime64_any_dtype(raw.dtype)) and _is_date(raw[usable]):
        raise _unusable(
            task, f"must hold numbers for TabularRegression, got dates{_first(raw[usable])}; turn them into a duration"
        )
    if parsed.any_bad:
        value = raw[usable].iloc[int(np.flatnonzero(parsed.bad)[0])]
        raise _unusable(
            task,
            f"must hold numbers for TabularRegression, got {str(value)[:60]!r}; for classes use TabularClassification",
        )
    if not np.isfinite(parsed.values).all():
        bad = int((~np.isfinite(parsed.values)).sum())
        raise _unusable(task, f"must hold finite numbers, {bad} values are infinite or not a number; remove those rows")
    if np.ptp(parsed.values) == 0:
        raise _unusable(task, f"has the same value, {parsed.values[0]:g}, in every row; there is nothing to learn")
    return Target(usable, parsed.values, warnings=warnings)


def _classes(raw: pd.Series, usable: np.ndarray, task: Task, warnings: tuple[str, ...]) -> Target:
    texts = to_texts(raw[usable])
    if texts.any_bad:
        raise _unusable(task, "must hold one value a row, got a list or an object")
    labels = pd.Series(texts.values, dtype=object).astype(str).str.strip()
    counts = labels.value_counts()
    if len(counts) == 1:
        raise _unusable(task, f"has the same value, '{counts.index[0]}', in every row; there is nothing to learn")
    if len(counts) > MAX_CLASSES or (_is_fraction(raw[usable]) and len(counts) > 20):
        raise _unusable(task, f"has {len(counts)} different values; for numbers use task type TabularRegression")
    rare = sorted(str(c) for c in counts.index[counts == 1])
    if rare and _is_date(raw[usable]):
        raise _unusable(task, f"must hold classes, got dates{_first(raw[usable])}; turn them into classes or a number")
    if rare:
        few = ", ".join(f"'{c}'" for c in rare[:5])
        raise _unusable(
            task,
            f"must have at least two rows of each class, {few} ha{'s' if len(rare) == 1 else 've'} one; add rows or remove the class",
        )
    classes = tuple(sorted((str(c) for c in counts.index), key=_class_order(counts.index)))
    codes = {c: i for i, c in enumerate(classes)}
    y = labels.map(codes).to_numpy(dtype=np.int64)
    return Target(usable, y, classes, _positive(task, classes, counts), warnings)


def _is_date(raw: pd.Series) -> bool:
    """Whether the values are dates: every one reads as such, and not as a number."""
    if pd.api.types.is_datetime64_any_dtype(raw.dtype):
        return True
    return bool(to_numbers(raw).bad.all()) and not to_seconds(raw).any_bad


def _first(raw: pd.Series) -> str:
    return f" such as {str(raw.iloc[0])[:40]!r}"


def _is_fraction(raw: pd.Series) -> bool:
    """Whether the values are numbers with decimals, as measured quantities are."""
    parsed = to_numbers(raw)
    return not parsed.any_bad and bool(np.any(parsed.values != np.floor(parsed.values)))


def _class_order(labels: pd.Index) -> Callable[[str], Any]:
    """Numeric order when all labels are numbers, else the order of text."""
    numbers = pd.to_numeric(pd.Series(labels), errors="coerce")
    return float if numbers.notna().all() else str


def _positive(task: Task, classes: tuple[str, ...], counts: pd.Series) -> str | None:
    wanted = task.positive_class
    if wanted is not None:
        if wanted not in classes:
            raise DataError(
                f"spec.task.positiveClass must be one of the classes {', '.join(classes[:20])}, got '{wanted}'",
                reason=Reason.TARGET_UNUSABLE,
            )
        return wanted
    if len(classes) != 2:
        return None
    named = [c for c in classes if c.lower() in POSITIVE_WORDS]
    return named[0] if len(named) == 1 else min(classes, key=lambda c: (int(counts[c]), c))
