"""Raw values to typed ones, the same way for training files and for requests: numbers, booleans, dates, text.

Raw columns come as text (CSV), as numbers, booleans or dates (Parquet), or mixed (JSON). Every function here returns the typed
values, and which of the values could not be read; whether that is a warning or an error is the caller's business.
"""

from __future__ import annotations

import datetime as dt
import re
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

MAX_NUMBER = 1e37
"""Numbers count as this at most, and as its negative at least: networks and CatBoost compute in float32, which ends at 3.4e38."""


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


def plain(series: pd.Series) -> pd.Series:
    """The same values in a simple dtype: a categorical as its values, a duration as seconds."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        return plain(series.astype(series.cat.categories.dtype))
    if pd.api.types.is_timedelta64_dtype(series.dtype):
        return series.dt.total_seconds()
    return series


def is_missing(series: pd.Series) -> np.ndarray:
    """bool (n,): None, NaN, NaT, and text without any character."""
    series = plain(series)
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
    series = plain(series)
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        return Parsed(np.full(len(series), np.nan), series.notna().to_numpy())
    if pd.api.types.is_bool_dtype(series.dtype) or pd.api.types.is_numeric_dtype(series.dtype):
        values = series.to_numpy(dtype=np.float64, na_value=np.nan)
        return Parsed(values, np.zeros(len(series), dtype=bool))
    quick = _all_numbers(series)
    if quick is not None:
        return Parsed(quick, np.zeros(len(series), dtype=bool))
    if not pd.api.types.is_object_dtype(series.dtype):
        codes, levels = pd.factorize(series, use_na_sentinel=True)
        if len(levels) <= len(series) / 2:  # words come back; each is read once
            each = to_numbers(pd.Series(levels), words)
            return Parsed(np.append(each.values, np.nan)[codes], np.append(each.bad, False)[codes])
    if pd.api.types.is_object_dtype(series.dtype):
        # a boolean among nulls is a number here, as a whole column of booleans is
        series = _scalars(series.map(lambda v: float(v) if isinstance(v, bool | np.bool_) else v).astype(object))
    numbers = pd.to_numeric(series.where(~_is_odd(series)), errors="coerce")
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


def plain_numbers(series: pd.Series) -> np.ndarray | None:
    """float64 (n,) of a column that holds numbers and nothing else, NaN where it is empty; None of any other.

    Text counts if each value is a number as it stands; no code with a leading zero, and no word that means missing.
    """
    if pd.api.types.is_bool_dtype(series.dtype):
        return None
    if pd.api.types.is_numeric_dtype(series.dtype):
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
    if not is_textual(series):
        return None
    values = _all_numbers(series)
    if values is None or int(np.isnan(values).sum()) != int(series.isna().sum()) or has_leading_zero(series):
        return None
    return values


def has_leading_zero(texts: pd.Series) -> bool:
    """Whether a text is digits that begin with 0, as codes and telephone numbers do."""
    found = pc.match_substring_regex(pa.array(texts, type=pa.large_string()), r"^\s*0[0-9]+\s*$")
    return bool(pc.any(found).as_py())


def to_booleans(series: pd.Series) -> Parsed:
    """0.0, 1.0 or NaN, from all usual spellings."""
    series = plain(series)
    if pd.api.types.is_bool_dtype(series.dtype):
        return Parsed(series.to_numpy(dtype=np.float64, na_value=np.nan), np.zeros(len(series), dtype=bool))
    codes, levels = pd.factorize(_scalars(series.astype(object)), use_na_sentinel=True)
    table = np.array([_boolean(v) for v in levels] + [np.nan])
    bad_levels = np.array(
        [np.isnan(_boolean(v)) and as_text(v).strip().lower() not in MISSING_WORDS for v in levels] + [False]
    )
    return Parsed(table[codes].astype(np.float64), bad_levels[codes])


def _boolean(value: Any) -> float:
    word = as_text(value).strip().lower()
    return 1.0 if word in TRUE_WORDS else 0.0 if word in FALSE_WORDS else np.nan


def to_seconds(series: pd.Series, *, day_first: bool = False) -> Parsed:
    """Unix seconds of dates and times, UTC where no zone is given.

    Numbers are compact dates where they read as one (20240131), else Unix seconds; each value by itself, so that a request
    of one row reads as the training file did. `day_first`: 03/04/2020 is the third of April.
    """
    series = plain(series)
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        stamps = pd.to_datetime(series, utc=True)
        seconds = _seconds(stamps)
        return Parsed(seconds, np.isnan(seconds) & stamps.notna().to_numpy())
    codes, levels = pd.factorize(_scalars(series.astype(object)), use_na_sentinel=True)
    texts = [v if isinstance(v, dt.date) else as_text(v).strip() for v in levels]
    dated = pd.Series([_dated(t, day_first) for t in texts], dtype=object)
    stamps = pd.to_datetime(dated, errors="coerce", utc=True, format="mixed")
    plain_seconds = np.array([_plain_seconds(t) for t in texts], dtype=np.float64)
    seconds = np.where(np.isnan(plain_seconds), _seconds(stamps), plain_seconds)
    unread = [
        bool(np.isnan(s)) and (isinstance(t, dt.date) or t.lower() not in MISSING_WORDS)
        for s, t in zip(seconds, texts, strict=True)
    ]
    return Parsed(np.append(seconds, np.nan)[codes], np.array([*unread, False])[codes])


_NUMBER = re.compile(r"^[+-]?\d+(\.\d+)?$")
_DAY_FIRST = re.compile(r"^(\d{1,2})[-/.](\d{1,2})[-/.](?=\d)")
_COMPACT = re.compile(r"^(1[6-9]|2[0-3])\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])$")


def _dated(text: str | dt.date, day_first: bool) -> str | dt.date | None:
    """What a date is read from; nothing where the text is a plain number.

    pandas' own `dayfirst` is not used: it turns 2020-04-03 around as well.
    """
    if not isinstance(text, str):
        return text
    if _NUMBER.match(text):
        return f"{text[:4]}-{text[4:6]}-{text[6:]}" if _COMPACT.match(text) else None
    return _DAY_FIRST.sub(r"\2/\1/", text) if day_first else text


def _plain_seconds(text: str | dt.date) -> float:
    if not isinstance(text, str) or not _NUMBER.match(text) or _COMPACT.match(text):
        return np.nan
    seconds = float(text)
    return seconds if _LOW_SECONDS <= seconds < _HIGH_SECONDS else np.nan


def is_compact_date(values: np.ndarray) -> bool:
    """Whether all these whole numbers read as dates such as 20240131."""
    return values.size > 0 and all(_COMPACT.match(f"{v:.0f}") for v in np.unique(values)[:5000])


_LOW_SECONDS = dt.datetime(MIN_YEAR, 1, 1, tzinfo=dt.UTC).timestamp()
_HIGH_SECONDS = dt.datetime(MAX_YEAR + 1, 1, 1, tzinfo=dt.UTC).timestamp()


def is_day_first(texts: pd.Series) -> bool:
    """Whether dates like 13/04/2020 show that the day comes first; with points, as in 13.04.2020, it always does."""
    found = texts.drop_duplicates().astype(str).str.extract(r"^\s*(\d{1,2})([-/.])(\d{1,2})[-/.]\d{2,4}").dropna()
    if found.empty:
        return False
    day_shown = (found[0].astype(int) > 12).any() and not (found[2].astype(int) > 12).any()
    return bool(day_shown or (found[1] == ".").all())


def _seconds(stamps: pd.Series) -> np.ndarray:
    inside = stamps.dt.year.between(MIN_YEAR, MAX_YEAR)
    micros = stamps.dt.as_unit("us").astype("int64").to_numpy()
    return np.where(inside.to_numpy(dtype=bool, na_value=False), micros / 1e6, np.nan)


def iso_time(seconds: float) -> str:
    """Unix seconds as text, UTC. Through whole microseconds, as pandas turns seconds into nanoseconds, which end in 2262.

    >>> iso_time(9246182400.000002)
    '2263-01-01T00:00:00.000002Z'
    """
    return f"{pd.Timestamp(np.datetime64(round(seconds * 1e6), 'us')).isoformat()}Z"


def to_texts(series: pd.Series) -> Parsed:
    """str or None. 1, 1.0 and "1.0" are all "1", so that files and requests agree; lists and objects are bad."""
    codes, levels = pd.factorize(_scalars(plain(series)), use_na_sentinel=True)
    texts = [as_text(v) for v in levels]
    table = np.array([t if t.strip() else None for t in texts] + [None], dtype=object)
    bad = np.array([isinstance(v, _Unhashable) for v in levels] + [False], dtype=bool)
    return Parsed(table[codes], bad[codes])


def shown(value: Any) -> str:
    """A value as messages show it, short, without the library's name of its type."""
    return repr(value.item() if isinstance(value, np.generic) else value)[:80]


class _Unhashable:
    """Stands for a list or an object in a column of text."""


_ODD = (list, dict, tuple, set, np.ndarray)


def _scalars(series: pd.Series) -> pd.Series:
    """Lists and objects by a stand-in, and booleans as text, because True == 1 would be one level."""
    if not pd.api.types.is_object_dtype(series.dtype):
        return series
    return series.map(_scalar).astype(object)


def _scalar(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    return _UNHASHABLE if isinstance(value, _ODD) else value


_UNHASHABLE = _Unhashable()


def _is_odd(series: pd.Series) -> np.ndarray:
    if not pd.api.types.is_object_dtype(series.dtype):
        return np.zeros(len(series), dtype=bool)
    return np.fromiter((v is _UNHASHABLE for v in series), dtype=bool, count=len(series))


def is_nested(series: pd.Series) -> np.ndarray:
    """bool (n,): lists, objects and the like, which no column type can hold."""
    return _is_odd(_scalars(plain(series)))


def as_text(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float | np.floating):
        number = float(value)
        return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
    text = str(value)
    return text.split(".")[0] if _WHOLE.match(text) else text


_WHOLE = re.compile(r"^[+-]?[0-9]{1,15}\.0+$")


def _means_missing(series: pd.Series, words: frozenset[str]) -> np.ndarray:
    """bool (n,): nothing, or a word for nothing."""
    codes, levels = pd.factorize(series, use_na_sentinel=True)
    table = np.array([as_text(v).strip().lower() in MISSING_WORDS | words for v in levels] + [True], dtype=bool)
    return np.asarray(table[codes])
