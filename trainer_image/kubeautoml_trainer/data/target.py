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
from kubeautoml_trainer.data.values import MAX_NUMBER, is_missing, plain, to_numbers, to_seconds, to_texts

MAX_CLASSES = 1000
MANY_NUMBERS = 20
"""From so many different numbers on, a target is more likely a quantity than a class; a guess."""
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
    is_classes = task.type.is_classification
    raw = plain(find_column(task.target, frame, "spec.task.target", Reason.TARGET_NOT_FOUND))
    missing = is_missing(raw)
    if not is_classes and not missing.all():
        # words for nothing, such as NA, are missing in a column of numbers; among classes they may be one
        parsed = to_numbers(raw)
        missing = np.isnan(parsed.values) & ~parsed.bad
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
    return (_classes if is_classes else _numbers)(raw, usable, task, warnings)


def _unusable(task: Task, what: str) -> DataError:
    return DataError(f"spec.task.target: column '{task.target}' {what}", reason=Reason.TARGET_UNUSABLE)


def _numbers(raw: pd.Series, usable: np.ndarray, task: Task, warnings: tuple[str, ...]) -> Target:
    parsed = to_numbers(raw[usable])
    if (parsed.any_bad or pd.api.types.is_datetime64_any_dtype(raw.dtype)) and _is_date(raw[usable]):
        raise _unusable(
            task, f"must hold numbers for {task.type}, got dates{_first(raw[usable])}; turn them into a duration"
        )
    if parsed.any_bad:
        value = raw[usable].iloc[int(np.flatnonzero(parsed.bad)[0])]
        raise _unusable(
            task,
            f"must hold numbers for {task.type}, got {str(value)[:60]!r}; for classes use {_sibling(task)}",
        )
    if np.isinf(parsed.values).any():
        bad = int(np.isinf(parsed.values).sum())
        raise _unusable(task, f"must hold finite numbers, {bad} values are infinite; remove those rows")
    huge = int((np.abs(parsed.values) > MAX_NUMBER).sum())
    if huge:
        raise _unusable(
            task, f"must hold numbers between -{MAX_NUMBER:g} and {MAX_NUMBER:g}, {huge} are beyond; divide the column"
        )
    if np.ptp(parsed.values) == 0:
        raise _unusable(task, f"has the same value, {parsed.values[0]:g}, in every row; there is nothing to learn")
    return Target(usable, parsed.values, warnings=warnings)


def _classes(raw: pd.Series, usable: np.ndarray, task: Task, warnings: tuple[str, ...]) -> Target:
    texts = to_texts(raw[usable])
    if texts.any_bad:
        raise _unusable(task, "must hold one value a row, got a list or an object")
    labels = to_labels(raw[usable])
    counts = labels.value_counts()
    if len(counts) == 1:
        raise _unusable(task, f"has the same value, '{counts.index[0]}', in every row; there is nothing to learn")
    numbers = to_numbers(raw[usable])
    is_quantity = not numbers.any_bad and len(counts) > MANY_NUMBERS
    if len(counts) > MAX_CLASSES or (is_quantity and _has_fractions(numbers.values)):
        raise _unusable(
            task, f"has {len(counts)} different values{_many_advice(task, labels, counts, not numbers.any_bad)}"
        )
    if not numbers.any_bad and np.isinf(numbers.values).any():
        raise _unusable(task, "must hold classes, got infinite numbers; remove those rows")
    rare = sorted(str(c) for c in counts.index[counts == 1])
    if rare and _is_date(raw[usable]):
        raise _unusable(task, f"must hold classes, got dates{_first(raw[usable])}; turn them into classes or a number")
    if rare:
        few = ", ".join(f"'{c}'" for c in rare[:5])
        raise _unusable(
            task,
            f"must have at least two rows of each class, {few} ha{'s' if len(rare) == 1 else 've'} one; add rows or remove the class"
            + f", or use {_sibling(task)} if these are quantities" * is_quantity,
        )
    classes = tuple(sorted((str(c) for c in counts.index), key=_class_order(counts.index)))
    codes = {c: i for i, c in enumerate(classes)}
    y = labels.map(codes).to_numpy(dtype=np.int64)
    return Target(usable, y, classes, _positive(task, classes, counts), warnings)


def _sibling(task: Task) -> str:
    """The task type for the other kind of target."""
    kinds = ("Classification", "Regression")
    here, there = kinds if task.type.is_classification else kinds[::-1]
    return task.type.replace(here, there)


def _many_advice(task: Task, labels: pd.Series, counts: pd.Series, are_numbers: bool) -> str:
    """What to do with more values than there can be classes."""
    if are_numbers:
        return f"; for numbers use task type {_sibling(task)}"
    if len(counts) > len(labels) / 2:
        return (
            ", nearly one a row, as texts or identifiers have; a class must occur in many rows: choose another target"
        )
    return f", but there can be at most {MAX_CLASSES} classes; join the rare ones into one, such as 'other'"


def _is_date(raw: pd.Series) -> bool:
    """Whether the values are dates: every one reads as such, and not as a number."""
    if pd.api.types.is_datetime64_any_dtype(raw.dtype):
        return True
    return bool(to_numbers(raw).bad.all()) and not to_seconds(raw).any_bad


def _first(raw: pd.Series) -> str:
    return f" such as {str(raw.iloc[0])[:40]!r}"


def to_labels(raw: pd.Series) -> pd.Series:
    """Class labels as text without blanks around them; None where missing. The same for training and test rows."""
    codes, levels = pd.factorize(pd.Series(to_texts(raw).values, dtype=object), use_na_sentinel=True)
    return pd.Series(np.array([*(str(v).strip() for v in levels), None], dtype=object)[codes], dtype=object)


def _has_fractions(values: np.ndarray) -> bool:
    known = values[np.isfinite(values)]
    return bool(np.any(known != np.floor(known)))


def _class_order(labels: pd.Index) -> Callable[[str], Any]:
    """Numeric order when all labels are numbers, else the order of text."""
    numbers = pd.to_numeric(pd.Series(labels), errors="coerce")
    return float if numbers.notna().all() else str


def _positive(task: Task, classes: tuple[str, ...], counts: pd.Series) -> str | None:
    wanted = task.positive_class
    if wanted is not None:
        # a file may hold True or 1.0 where the manifest says "true" or "1"
        alike = [c for c in classes if c.lower() == wanted.strip().lower()]
        if wanted not in classes and len(alike) != 1:
            raise DataError(
                f"spec.task.positiveClass must be one of the classes {', '.join(classes[:20])}, got '{wanted}'",
                reason=Reason.TARGET_UNUSABLE,
            )
        return wanted if wanted in classes else alike[0]
    if len(classes) != 2:
        return None
    named = [c for c in classes if c.lower() in POSITIVE_WORDS]
    return named[0] if len(named) == 1 else min(classes, key=lambda c: (int(counts[c]), c))
