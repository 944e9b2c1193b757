"""What a raw column holds, from its training values; and what is worth a warning about it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from kubeautoml.api.conditions import Reason
from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.errors import DataError
from kubeautoml_trainer.data.base import Column
from kubeautoml_trainer.data.image_cache import Size, cached_images
from kubeautoml_trainer.data.images import SUFFIXES
from kubeautoml_trainer.data.texts import long_texts
from kubeautoml_trainer.data.values import (
    FALSE_WORDS,
    MAX_NUMBER,
    TRUE_WORDS,
    has_leading_zero,
    is_compact_date,
    is_day_first,
    is_missing,
    is_nested,
    is_textual,
    iso_time,
    plain,
    plain_numbers,
    shown,
    to_booleans,
    to_numbers,
    to_seconds,
    to_texts,
)

MAX_LEVELS = 1000
"""Levels of a category that are remembered; rarer ones are treated as unseen."""

MAX_WORDS_SHARE = 0.02
MAX_WORDS = 5
MAX_WORDS_ASKED = 50
"""A column of numbers may hold so few values that are words ("unknown", "> 100") and stay one; a guess that keeps
measurement columns usable without turning codes into numbers."""

TEXT_WORDS = 4.0
"""Mean words of a value from which a column of distinct values is prose rather than names; a guess."""

_IDENTIFIER_NAME = re.compile(
    r"(^|[_\s.-])(id|uuid|guid|key|index|rowid|row_?number|no|nr)$|^(unnamed: 0|index|rownames)$", re.I
)
_DATE_NAME = re.compile(r"(^|[_\s.-])(date|day|datum|yyyymmdd|dt)([_\s.-]|$)|[a-z]Date$", re.I)
_CAMEL_IDENTIFIER = re.compile(r"[a-z](Id|ID|Uuid|UUID|Key)$")
_UUID = re.compile(r"^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$", re.I)
_DATE = re.compile(
    r"^\s*(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}"
    r"|\d{1,2} [A-Za-z]{3,9} \d{4}|[A-Za-z]{3,9} \d{1,2},? \d{4})"
)


@dataclass(frozen=True)
class Inferred:
    """A column and what its author should know about it."""

    column: Column
    warnings: tuple[str, ...] = ()


def infer_column(
    name: str, raw: pd.Series, override: ColumnType | None = None, train: np.ndarray | None = None
) -> Inferred:
    """The column as these values show it.

    `train`: bool (n,), the rows that may be described; the type alone is told from all rows, so that a hold-out row can
    never fail for a type that the training rows happened to show.

    Raises:
        DataError: the values are no scalars, or the override does not fit them.
    """
    images = cached_images(raw)
    if images is not None and override in (None, ColumnType.IMAGE):
        return Inferred(_of_images(name, images.size, raw, train))
    if override is ColumnType.IMAGE:
        raise DataError(
            f"column '{name}' must hold images, as spec.dataset.columns.types says, but has none",
            reason=Reason.INVALID_DATA,
        )
    nested = is_nested(raw)
    if nested.any():
        row = int(np.flatnonzero(nested)[0])
        raise DataError(
            f"column '{name}' must hold one value a row, got {shown(raw.iloc[row])} in row {row}; flatten it, "
            "or name it in spec.dataset.columns.ignore",
            reason=Reason.INVALID_DATA,
        )
    raw = plain(raw)
    train = np.ones(len(raw), dtype=bool) if train is None else train
    numbers = plain_numbers(raw) if override in (None, ColumnType.NUMBER) else None
    if numbers is not None and (override or _kind_of_numbers(name, numbers) is ColumnType.NUMBER):
        return _of_numbers(name, numbers, train)
    kind, words, warnings = _overridden(name, raw, override) if override else _kind_of(name, raw)
    day_first = kind is ColumnType.DATETIME and is_textual(raw) and is_day_first(raw[~is_missing(raw)])
    column = Column(
        name=name,
        type=kind,
        missing_words=words,
        missing_fraction=float(is_missing(raw)[train].mean()),
        day_first=day_first,
    )
    describe = {
        ColumnType.NUMBER: _describe_number,
        ColumnType.BOOLEAN: _describe_boolean,
        ColumnType.DATETIME: _describe_datetime,
    }.get(kind, _describe_text)
    column, more = describe(column, raw, train)
    return Inferred(column, (*warnings, *more))


def _of_numbers(name: str, values: np.ndarray, train: np.ndarray) -> Inferred:
    """The common column, by a short way: tables of thousands of them are told in seconds."""
    column = Column(name=name, type=ColumnType.NUMBER, missing_fraction=float(np.isnan(values)[train].mean()))
    column, warnings = _describe_values(column, values, train)
    return Inferred(column, tuple(warnings))


def _of_images(name: str, size: Size, raw: pd.Series, train: np.ndarray | None) -> Column:
    present = [v for v in (raw if train is None else raw[train]) if v is not None]
    return Column(
        name=name,
        type=ColumnType.IMAGE,
        missing_fraction=1 - len(present) / max(1, len(raw) if train is None else int(train.sum())),
        unique=len({v.digest for v in present}),
        height=size.height,
        width=size.width,
        channels=size.channels,
    )


def _overridden(name: str, raw: pd.Series, kind: ColumnType) -> tuple[ColumnType, tuple[str, ...], list[str]]:
    """Words in a column that shall be numbers mean missing, unless they are most of it."""
    if kind is not ColumnType.NUMBER:
        return kind, (), []
    parsed = to_numbers(raw)
    words = _words(raw[parsed.bad], MAX_WORDS_ASKED)
    if not words or len(words) > MAX_WORDS_ASKED or parsed.bad.mean() > 0.5:
        return kind, (), []
    return kind, words, [_told(name, parsed.bad, words)]


def _words(texts: pd.Series, most: int) -> tuple[str, ...]:
    """The words in place of numbers, one more than `most` when there are more."""
    return tuple(sorted({str(v).strip().lower() for v in texts.unique()})[: most + 1])


def _told(name: str, bad: np.ndarray, words: tuple[str, ...]) -> str:
    shown = ", ".join(f"'{w[:40]}'" for w in words[:MAX_WORDS])
    return f"column '{name}' is read as numbers; {int(bad.sum())} values that are words ({shown}) count as missing"


def _kind_of(name: str, raw: pd.Series) -> tuple[ColumnType, tuple[str, ...], list[str]]:
    present = raw[~is_missing(raw)]
    if present.empty:
        return ColumnType.CONSTANT, (), [f"column '{name}' is empty"]
    if (
        all(isinstance(v, bool | np.bool_) for v in present.head(1000))
        and present.map(type).isin((bool, np.bool_)).all()
    ):
        return _unless_constant(present, ColumnType.BOOLEAN), (), []
    if pd.api.types.is_datetime64_any_dtype(raw.dtype):
        return _unless_constant(present, ColumnType.DATETIME), (), []
    if pd.api.types.is_numeric_dtype(raw.dtype):
        return _kind_of_numbers(name, present.to_numpy(dtype=np.float64)), (), []
    return _kind_of_texts(name, present)


def _unless_constant(present: pd.Series, kind: ColumnType) -> ColumnType:
    return ColumnType.CONSTANT if present.nunique() <= 1 else kind


def _kind_of_numbers(name: str, values: np.ndarray) -> ColumnType:
    values = values[~np.isnan(values)]
    unique = len(np.unique(values))
    if unique <= 1:
        return ColumnType.CONSTANT
    is_whole = bool(np.all(np.isfinite(values)) and np.all(values == np.floor(values)))
    if is_whole and unique == len(values) and len(values) >= 20 and _is_identifier_name(name):
        return ColumnType.IDENTIFIER
    if is_whole and _DATE_NAME.search(name) and is_compact_date(values):
        return ColumnType.DATETIME
    return ColumnType.NUMBER


def _is_identifier_name(name: str) -> bool:
    return bool(_IDENTIFIER_NAME.search(name) or _CAMEL_IDENTIFIER.search(name))


def _kind_of_texts(name: str, present: pd.Series) -> tuple[ColumnType, tuple[str, ...], list[str]]:
    kind, words, warnings = _as_numbers(name, present)
    if kind is not None:
        return kind, words, warnings
    texts = pd.Series(to_texts(present).values, dtype=object).dropna().astype(str)
    levels = texts.unique()
    lowered = {str(v).strip().lower() for v in levels[:100]}
    if len(levels) <= 1:
        return ColumnType.CONSTANT, (), []
    if len(levels) <= 8 and lowered <= (TRUE_WORDS | FALSE_WORDS) and lowered & TRUE_WORDS and lowered & FALSE_WORDS:
        return ColumnType.BOOLEAN, (), []
    if are_dates(levels):
        return ColumnType.DATETIME, (), []
    return _kind_of_words(texts, levels), (), warnings


def _as_numbers(name: str, present: pd.Series) -> tuple[ColumnType | None, tuple[str, ...], list[str]]:
    """Number (or Identifier), if nearly all texts are numbers and none has a leading zero, as codes have."""
    parsed = to_numbers(present)
    good = ~np.isnan(parsed.values)
    if not good.any() or has_leading_zero(present[good].astype("str")):
        return None, (), []
    words = _words(present[parsed.bad], MAX_WORDS)
    share = float(parsed.bad.mean())
    if share > MAX_WORDS_SHARE or len(words) > MAX_WORDS:
        warning = (
            f"column '{name}' mixes numbers and words ({share:.0%} words such as '{words[0][:40]}'); it is read as a category; "
            "set spec.dataset.columns.types if it holds numbers"
        )
        return None, (), [warning] if share < 0.5 else []
    kind = _kind_of_numbers(name, parsed.values)
    return kind, words, [_told(name, parsed.bad, words)] if words else []


def are_dates(levels: np.ndarray) -> bool:
    """Whether all these texts are dates or times, by a sample and then by all."""
    sample = [str(v) for v in levels[:: max(1, len(levels) // 200)]]
    if not all(_DATE.match(v) for v in sample):
        return False
    return not to_seconds(pd.Series(sample, dtype=object)).any_bad and not to_seconds(pd.Series(levels)).any_bad


def _kind_of_words(texts: pd.Series, levels: np.ndarray) -> ColumnType:
    sample = pd.Series(levels[:: max(1, len(levels) // 2000)]).astype(str)
    words = float(sample.str.split().str.len().mean())
    length = float(sample.str.len().mean())
    distinct = len(levels) / len(texts)
    if all(str(v).lower().endswith(SUFFIXES) for v in levels):
        return ColumnType.IDENTIFIER  # file names of images, which stand beside the images themselves
    if len(texts) >= 20 and distinct == 1.0 and (words < 1.5 or bool(sample.str.match(_UUID).all())):
        return ColumnType.IDENTIFIER
    if distinct > 0.2 and len(levels) > 20 and (words >= TEXT_WORDS or length > 60):
        return ColumnType.TEXT
    return ColumnType.CATEGORY


def _describe_number(column: Column, raw: pd.Series, train: np.ndarray) -> tuple[Column, list[str]]:
    parsed = to_numbers(raw, frozenset(column.missing_words))
    _refuse_bad(column, raw, parsed.bad, "numbers")
    return _describe_values(column, parsed.values, train)


def _describe_values(column: Column, values: np.ndarray, train: np.ndarray) -> tuple[Column, list[str]]:
    infinite = int(np.isinf(values).sum())
    huge = int((np.abs(values) > MAX_NUMBER).sum()) - infinite
    finite = values[np.isfinite(values) & train]
    warnings = [f"column '{column.name}' holds {infinite} infinite values; they count as missing"] * (infinite > 0)
    if huge:
        warnings.append(
            f"column '{column.name}' holds {huge} numbers beyond {MAX_NUMBER:g}; they count as {MAX_NUMBER:g}: divide the column"
        )
        finite = np.clip(finite, -MAX_NUMBER, MAX_NUMBER)
    if finite.size == 0:
        return column, warnings
    return (
        _with(
            column,
            unique=len(np.unique(finite)),
            low=float(finite.min()),
            high=float(finite.max()),
            mean=float(finite.mean()),
            is_integer=bool(np.all(finite == np.floor(finite))),
            example=f"{float(np.quantile(finite, 0.5, method='nearest')):.10g}",
        ),
        warnings,
    )


def _describe_boolean(column: Column, raw: pd.Series, train: np.ndarray) -> tuple[Column, list[str]]:
    parsed = to_booleans(raw)
    _refuse_bad(column, raw, parsed.bad, "booleans (true/false, yes/no, 1/0)")
    known = parsed.values[~np.isnan(parsed.values) & train]
    mean = float(known.mean()) if known.size else 0.0
    levels = ("true", "false") if mean >= 0.5 else ("false", "true")
    return _with(column, unique=2, mean=mean, levels=levels, example=levels[0]), []


def _describe_datetime(column: Column, raw: pd.Series, train: np.ndarray) -> tuple[Column, list[str]]:
    parsed = to_seconds(raw, day_first=column.day_first)
    _refuse_bad(column, raw, parsed.bad, "dates or times such as 2024-01-31 or 2024-01-31T12:00:00Z")
    seconds = parsed.values[np.isfinite(parsed.values) & train]
    if seconds.size == 0:
        return column, []
    middle = iso_time(float(np.quantile(seconds, 0.5, method="nearest")))
    stats = {"low": float(seconds.min()), "high": float(seconds.max()), "mean": float(seconds.mean())}
    return _with(column, unique=len(np.unique(seconds)), example=middle, **stats), []


def _describe_text(column: Column, raw: pd.Series, train: np.ndarray) -> tuple[Column, list[str]]:
    parsed = to_texts(raw)
    _refuse_bad(column, raw, parsed.bad, "text")
    texts = parsed.values[train]
    counts = pd.Series(texts, dtype=object).value_counts()
    example = next((v for v in texts if v is not None), None)
    if column.type is not ColumnType.CATEGORY:
        told = long_texts(column.name, parsed.values) if column.type is ColumnType.TEXT else []
        return _with(column, unique=len(counts), example=example[:200] if example else None), told
    # a stable order among equally frequent levels
    ordered = sorted(counts.items(), key=lambda item: (-int(item[1]), str(item[0])))
    levels = tuple(str(v) for v, _ in ordered[:MAX_LEVELS])
    return _with(column, unique=len(counts), levels=levels, example=levels[0][:200] if levels else None), []


def _refuse_bad(column: Column, raw: pd.Series, bad: np.ndarray, wanted: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"column '{column.name}' must hold {wanted}, as dataset.columns.types says, got {shown(raw.iloc[row])} in row {row}",
            reason=Reason.INVALID_DATA,
        )


def _with(column: Column, **changes: Any) -> Column:
    return replace(column, **changes)
