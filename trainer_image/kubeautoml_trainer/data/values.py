"""Raw values to typed ones, the same way for training files and for requests: numbers, booleans, dates, text.

Raw columns come as text (CSV), as numbers, booleans or dates (Parquet), or mixed (JSON). Every function here returns the typed
values, and which of the values could not be read; whether that is a warning or an error is the caller's business.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

MISSING_WORDS = frozenset({"", "na", "n/a", "nan", "null", "none", "#n/a", "?", "-", "."})
"""Lower-case words that mean "missing" in a column of numbers, dates or booleans. In a category only the empty text does:
"None" may well be a level there."""

TRUE_WORDS = frozenset({"true", "yes", "t", "y", "on", "1", "1.0"})
FALSE_WORDS = frozenset({"false", "no", "f", "n", "off", "0", "0.0"})

MIN_YEAR, MAX_YEAR = 1600, 2400
"""Dates outside are taken for mistakes; numbers that merely look like dates mostly fall there."""


@dataclass(frozen=True)
class Parsed:
    """Typed values and what could not be read.

    values: float64 (n,) with NaN, or object (n,) of str with None.
    bad: bool (n,), values that are there but are not of the type.
    """

    values: np.ndarray
    bad: np.ndarray

    @property
    def any_bad(self) -> bool:
        return bool(self.bad.any())


def is_missing(series: pd.Series) -> np.ndarray:
    """bool (n,): None, NaN, NaT, and text without any character."""
    missing: np.ndarray = series.isna().to_numpy(dtype=bool, na_value=True)
    if pd.api.types.is_object_dtype(series.dtype):
        blank = series.map(lambda v: isinstance(v, str) and not v.strip())
        return np.asarray(missing | blank.to_numpy(dtype=bool))
    if is_textual(series):
        blank = pc.equal(pc.utf8_trim_whitespace(pa.array(series, type=pa.large_string())), "")
        return np.asarray(missing | np.asarray(blank.fill_null(True)))
    return missing


def is_textual(series: pd.Series) -> bool:
    """Whether a column may hold text."""
    return bool(pd.api.types.is_object_dtype(series.dtype) or pd.api.types.is_string_dtype(series.dtype))


def to_numbers(series: pd.Series, words: frozenset[str] = frozenset()) -> Parsed:
    """Numbers; booleans are 0 and 1. `words`: further lower-case words that mean missing. Infinities stay."""
    if pd.api.types.is_bool_dtype(series.dtype) or pd.api.types.is_numeric_dtype(series.dtype):
        values = series.to_numpy(dtype=np.float64, na_value=np.nan)
        return Parsed(values, np.zeros(len(series), dtype=bool))
    quick = _all_numbers(series)
    if quick is not None:
        return Parsed(quick, np.zeros(len(series), dtype=bool))
    numbers = pd.to_numeric(series, errors="coerce")
    values = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    suspects = np.flatnonzero(np.isnan(values))
    bad = np.zeros(len(series), dtype=bool)
    if suspects.size:
        rest = series.iloc[suspects]
        bad[suspects] = ~_means_missing(rest, words)
    return Parsed(values, bad)


def _all_numbers(series: pd.Series) -> np.ndarray | None:
    """The fast way for a column of text in which all that is there is a number; None when something is not."""
    if pd.api.types.is_object_dtype(series.dtype):
        return None
    try:
        numbers = pc.cast(pa.array(series, type=pa.large_string()), pa.float64())
    except pa.ArrowInvalid:
        return None
    return np.array(numbers.to_numpy(zero_copy_only=False), dtype=np.float64)


def has_leading_zero(texts: pd.Series) -> bool:
    """Whether a text is digits that begin with 0, as codes and telephone numbers do."""
    found = pc.match_substring_regex(pa.array(texts, type=pa.large_string()), r"^\s*[+-]?0[0-9]+\s*$")
    return bool(pc.any(found).as_py())


def to_booleans(series: pd.Series) -> Parsed:
    """0.0, 1.0 or NaN, from all usual spellings."""
    if pd.api.types.is_bool_dtype(series.dtype):
        return Parsed(series.to_numpy(dtype=np.float64, na_value=np.nan), np.zeros(len(series), dtype=bool))
    codes, levels = pd.factorize(series.astype(object), use_na_sentinel=True)
    table = np.array([_boolean(v) for v in levels] + [np.nan])
    bad_levels = np.array(
        [np.isnan(_boolean(v)) and _text(v).strip().lower() not in MISSING_WORDS for v in levels] + [False]
    )
    return Parsed(table[codes].astype(np.float64), bad_levels[codes])


def _boolean(value: Any) -> float:
    word = _text(value).strip().lower()
    return 1.0 if word in TRUE_WORDS else 0.0 if word in FALSE_WORDS else np.nan


def to_seconds(series: pd.Series) -> Parsed:
    """Unix seconds of dates and times, UTC where no zone is given."""
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        stamps = pd.to_datetime(series, utc=True)
        return Parsed(_seconds(stamps), np.zeros(len(series), dtype=bool))
    if pd.api.types.is_numeric_dtype(series.dtype):
        # compact dates such as 20240131 only by an override; plain seconds otherwise
        as_text = series.astype("Int64").astype("str") if _looks_compact(series) else None
        if as_text is None:
            return Parsed(series.to_numpy(dtype=np.float64, na_value=np.nan), np.zeros(len(series), dtype=bool))
        series = as_text.where(series.notna())
    codes, levels = pd.factorize(series.astype(object), use_na_sentinel=True)
    texts = pd.Series([_date_text(v) for v in levels], dtype=object)
    stamps = pd.to_datetime(texts, errors="coerce", utc=True, format="mixed")
    seconds = np.append(_seconds(stamps), np.nan)
    unread = np.array(
        [
            np.isnan(s) and _text(v).strip().lower() not in MISSING_WORDS
            for s, v in zip(seconds[:-1], levels, strict=True)
        ]
    )
    return Parsed(seconds[codes], np.append(unread, False)[codes])


def _looks_compact(series: pd.Series) -> bool:
    values = series.dropna().to_numpy(dtype=np.float64)
    return bool(values.size) and bool(np.all((values >= MIN_YEAR * 10_000) & (values <= MAX_YEAR * 10_000 + 1231)))


def _date_text(value: Any) -> Any:
    return value if isinstance(value, dt.date | dt.datetime) else _text(value).strip()


def _seconds(stamps: pd.Series) -> np.ndarray:
    inside = stamps.dt.year.between(MIN_YEAR, MAX_YEAR)
    micros = stamps.dt.as_unit("us").astype("int64").to_numpy()
    return np.where(inside.to_numpy(dtype=bool, na_value=False), micros / 1e6, np.nan)


def to_texts(series: pd.Series) -> Parsed:
    """str or None. 1.0 and 1 are both "1", so that a file and a request agree; lists and objects are bad."""
    codes, levels = pd.factorize(_hashable(series), use_na_sentinel=True)
    texts = [_text(v) for v in levels]
    table = np.array([t if t.strip() else None for t in texts] + [None], dtype=object)
    bad = np.array([isinstance(v, _Unhashable) for v in levels] + [False], dtype=bool)
    return Parsed(table[codes], bad[codes])


class _Unhashable:
    """Stands for a list or an object in a column of text."""


def _hashable(series: pd.Series) -> pd.Series:
    if not pd.api.types.is_object_dtype(series.dtype):
        return series
    odd = series.map(lambda v: isinstance(v, list | dict))
    return series.where(~odd, _Unhashable()) if bool(odd.any()) else series


def _text(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float | np.floating):
        number = float(value)
        return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
    return str(value)


def _means_missing(series: pd.Series, words: frozenset[str]) -> np.ndarray:
    """bool (n,): nothing, or a word for nothing."""
    codes, levels = pd.factorize(_hashable(series), use_na_sentinel=True)
    table = np.array([_text(v).strip().lower() in MISSING_WORDS | words for v in levels] + [True], dtype=bool)
    return np.asarray(table[codes])
