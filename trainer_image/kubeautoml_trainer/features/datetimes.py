"""Parts of dates: Unix seconds become year, month, day, weekday, hour and days elapsed, and on request their
positions on a circle, facts of the calendar, and the days between two dates.
"""

from __future__ import annotations

import numpy as np

_DAY = 86_400.0
MAX_DIFFERENCES = 10  # pairs of date columns: all of five
_FIRST, _LAST = -62_135_596_800.0, 253_402_300_799.0  # years 1 to 9999


def datetime_parts(seconds: np.ndarray, origin: np.ndarray, cyclic: bool, calendar: bool = False) -> np.ndarray:
    """Split dates.

    Args:
        seconds: float64 (n, columns), Unix seconds in UTC; NaN for none.
        origin: float64 (columns,), seconds from which elapsed days count.

    Returns:
        float64 (n, columns * (6, + 6 if cyclic, + 5 if calendar)), NaN where the date is. The calendar's are weekend,
        first and last day of the month (0 or 1), quarter and day of the year.

    >>> datetime_parts(np.array([[0.0]]), np.array([-86400.0]), cyclic=False)
    array([[1970.,    1.,    1.,    3.,    0.,    1.]])
    """
    missing = np.isnan(seconds)
    s = np.clip(np.where(missing, 0.0, seconds), _FIRST, _LAST)
    days = np.floor(s / _DAY)
    day = days.astype(np.int64).astype("datetime64[D]")
    month, year = day.astype("datetime64[M]"), day.astype("datetime64[Y]")
    weekday = (days + 3) % 7  # the epoch was a Thursday; Monday is 0
    hour = (s - days * _DAY) / 3600
    parts = [
        year.astype(np.int64) + 1970.0,
        (month.astype(np.int64) - year.astype("datetime64[M]").astype(np.int64)) + 1.0,
        (day - month.astype("datetime64[D]")).astype(np.int64) + 1.0,
        weekday,
        hour,
        s / _DAY - origin / _DAY,
    ]
    if cyclic:
        of_year = (day - year.astype("datetime64[D]")).astype(np.int64) / 365.25
        for turn in (of_year, weekday / 7, hour / 24):
            parts += [np.sin(2 * np.pi * turn), np.cos(2 * np.pi * turn)]
    if calendar:
        month_number, month_day = parts[1], parts[2]
        tomorrow = (day + 1).astype("datetime64[M]")
        parts += [
            (weekday >= 5).astype(np.float64),
            (month_day == 1).astype(np.float64),
            (tomorrow != month).astype(np.float64),
            np.floor((month_number - 1) / 3) + 1.0,
            (day - year.astype("datetime64[D]")).astype(np.int64) + 1.0,
        ]
    stacked = np.stack(parts, axis=2).astype(np.float64)
    stacked[missing] = np.nan
    return stacked.reshape(len(seconds), seconds.shape[1] * len(parts))


def date_differences(seconds: np.ndarray) -> np.ndarray:
    """Days from each date column to each later one, float64 (n, pairs), at most `MAX_DIFFERENCES`; NaN where either is
    missing.

    >>> date_differences(np.array([[0.0, 86400.0, 43200.0]]))
    array([[ 1. ,  0.5, -0.5]])
    """
    left, right = np.triu_indices(seconds.shape[1], 1)
    left, right = left[:MAX_DIFFERENCES], right[:MAX_DIFFERENCES]
    return np.asarray((seconds[:, right] - seconds[:, left]) / _DAY)
