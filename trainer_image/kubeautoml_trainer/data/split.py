"""Hold-out and folds: drawn once from the seed, the hold-out first, and never across groups or back in time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import (
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    ShuffleSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
)

from kubeautoml.api.conditions import Reason
from kubeautoml.api.dataset import SplitType
from kubeautoml.api.errors import DataError

TRAIN_ONLY = -1
"""Fold of a row that is never validated, because nothing earlier could predict it."""

GROUP_DRAWS = 20
MAX_STRATIFIED_GROUPS = 10_000
"""Balancing classes over whole groups looks at every group and fold in Python: seconds beyond this."""


@dataclass(frozen=True)
class Assignment:
    """holdout: bool (rows,); fold: int16 (rows,), TRAIN_ONLY for hold-out rows as well."""

    holdout: np.ndarray
    fold: np.ndarray


ONE_FOLD_ABOVE = 1_000_000
"""Rows above which one fold is validated: its rows are enough to tell models apart, and each further fold is another long fit."""
LEAST_VALIDATED, MOST_VALIDATED, SHARE_VALIDATED = 25_000, 100_000, 0.05
"""Rows of the only fold."""


FOLDS_IN_TIME = ((1_000.0, 8), (20_000.0, 5), (math.inf, 3))
"""Values a second of the budget up to which so many folds are made: with more of them a short job tries too few models."""
ONE_FOLD_IN_TIME, ROWS_OF_ONE_FOLD = 200_000.0, 250_000
"""Values a second, and rows, above which one fold is validated."""


def default_folds(rows: int, values_a_second: float = 0.0) -> int:
    """Folds by effective size: many where rows are few, few where a fit is long (after published AutoML practice).

    Args:
        rows: groups, where rows belong together, for they say as much as that many rows do.
        values_a_second: values of the table (times classes) by seconds of the budget; 0 without a time budget.
    """
    by_rows = next((f for limit, f in ((79, 7), (20_000, 8), (100_000, 5), (ONE_FOLD_ABOVE, 3)) if rows <= limit), 1)
    in_time = next(f for limit, f in FOLDS_IN_TIME if values_a_second <= limit)
    if values_a_second > ONE_FOLD_IN_TIME and rows > ROWS_OF_ONE_FOLD:
        in_time = 1
    return min(by_rows, in_time)


def resolve(split: SplitType, *, is_classes: bool, has_groups: bool, has_time: bool) -> SplitType:
    """What Auto means for this data."""
    if split is not SplitType.AUTO:
        return split
    if has_time:
        return SplitType.TIME
    if has_groups:
        return SplitType.GROUP
    return SplitType.STRATIFIED if is_classes else SplitType.RANDOM


def assign(
    y: np.ndarray,
    *,
    kind: SplitType,
    is_classes: bool,
    test_fraction: float,
    folds: int | None,
    seed: int,
    groups: np.ndarray | None = None,
    time: np.ndarray | None = None,
    values_a_second: float = 0.0,
) -> Assignment:
    """Draw the hold-out, then the folds of the rest.

    Args:
        y: coded target, (rows,).
        test_fraction: 0 when the hold-out is a file of its own.
        folds: None chooses by the number of rows, or of groups.
        groups: (rows,), needed for GROUP.
        time: float Unix seconds or any order, (rows,), needed for TIME.
        values_a_second: see `default_folds`.

    Raises:
        DataError: there are too few rows, groups or rows of a class.
    """
    rows = len(y)
    holdout = np.zeros(rows, dtype=bool)
    if test_fraction > 0:
        holdout[_holdout_rows(y, kind, is_classes, test_fraction, seed, groups, time)] = True
    rest = np.flatnonzero(~holdout)
    wanted = folds or default_folds(_effective_rows(rest, kind, groups), values_a_second)
    if wanted == 1 and kind in (SplitType.RANDOM, SplitType.STRATIFIED):
        return Assignment(holdout, _one_fold(y, rest, is_classes, seed))
    count = _possible_folds(
        y[rest], wanted, kind, is_classes, None if groups is None else groups[rest], explicit=folds is not None
    )
    fold = np.full(rows, TRAIN_ONLY, dtype=np.int16)
    fold[rest] = _folds(
        y[rest],
        kind,
        is_classes,
        count,
        seed,
        None if groups is None else groups[rest],
        None if time is None else time[rest],
    )
    return Assignment(holdout, fold)


def _effective_rows(rest: np.ndarray, kind: SplitType, groups: np.ndarray | None) -> int:
    return len(np.unique(groups[rest])) if kind is SplitType.GROUP and groups is not None else len(rest)


def _one_fold(y: np.ndarray, rest: np.ndarray, is_classes: bool, seed: int) -> np.ndarray:
    """Some rows are validated, the others only ever trained on."""
    count = min(MOST_VALIDATED, max(LEAST_VALIDATED, round(SHARE_VALIDATED * len(rest))))
    fold = np.full(len(y), TRAIN_ONLY, dtype=np.int16)
    taken = _of_each_class(y[rest], count / len(rest), seed) if is_classes else _drawn(len(rest), count, seed)
    fold[rest[taken]] = 0
    return fold


def sampled(y: np.ndarray, count: int, is_classes: bool, seed: int) -> np.ndarray:
    """Positions of about `count` rows to learn from, ascending; of each class its share, but two rows at least."""
    if not is_classes:
        return np.sort(_drawn(len(y), count, seed))
    _, codes = np.unique(y, return_inverse=True)
    kept = np.ones(len(y), dtype=bool)
    kept[_of_each_class(codes, 1.0 - count / len(y), seed)] = False
    return np.flatnonzero(kept)


def _drawn(rows: int, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(rows)[:count]


def refolded(
    fold: np.ndarray, y: np.ndarray, *, kind: SplitType, is_classes: bool, groups: np.ndarray | None, seed: int
) -> np.ndarray:
    """As many folds, drawn anew: int16 (rows,). Not for time splits, whose order is the only one."""
    count = int(fold.max()) + 1
    return _folds(y, kind, is_classes, count, seed, groups, None)


def _holdout_rows(
    y: np.ndarray,
    kind: SplitType,
    is_classes: bool,
    fraction: float,
    seed: int,
    groups: np.ndarray | None,
    time: np.ndarray | None,
) -> np.ndarray:
    if kind is SplitType.TIME:
        assert time is not None
        count = max(1, round(fraction * len(y)))
        return _by_time(time)[-count:]
    if kind is SplitType.GROUP:
        assert groups is not None
        return _whole_groups(y, groups, is_classes, fraction, seed)
    if kind is SplitType.STRATIFIED and is_classes:
        return _of_each_class(y, fraction, seed)
    return np.asarray(next(ShuffleSplit(1, test_size=fraction, random_state=seed).split(y))[1])


def _of_each_class(y: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """The same share of each class, but two rows of each stay for training: folds need them more than the hold-out does.

    Where no class has more than two, one of each stays: without any hold-out nobody could say how good the model is.
    """
    random = np.random.default_rng(seed)
    counts = np.bincount(y)
    shuffled = random.permutation(len(y))
    by_class = shuffled[np.argsort(y[shuffled], kind="stable")]
    place = np.empty(len(y), dtype=np.int64)
    place[by_class] = np.arange(len(y)) - np.repeat(np.cumsum(counts) - counts, counts)
    free = place < counts[y] - (2 if counts.max() > 2 else 1)
    turn = np.where(free, (place + random.random(len(counts))[y]) / counts[y], np.inf)
    count = max(1, min(round(fraction * len(y)), int(free.sum())))
    return np.argsort(turn, kind="stable")[:count]


def _whole_groups(y: np.ndarray, groups: np.ndarray, is_classes: bool, fraction: float, seed: int) -> np.ndarray:
    """Of some draws of groups the one nearest to the asked share of rows that leaves every class to learn from."""
    if len(np.unique(groups)) < 3:
        raise _too_few_groups(groups, 3)
    classes = len(np.unique(y)) if is_classes else 0
    draws = [
        (train, test)
        for train, test in GroupShuffleSplit(GROUP_DRAWS, test_size=fraction, random_state=seed).split(y, y, groups)
    ]

    def fault(draw: tuple[np.ndarray, np.ndarray]) -> tuple[bool, float]:
        lacks_class = is_classes and len(np.unique(y[draw[0]])) < classes
        return lacks_class, abs(len(draw[1]) / len(y) - fraction)

    return np.asarray(min(draws, key=fault)[1])


def _possible_folds(
    y: np.ndarray, wanted: int, kind: SplitType, is_classes: bool, groups: np.ndarray | None, *, explicit: bool
) -> int:
    if kind is SplitType.GROUP and groups is not None:
        most, of = len(np.unique(groups)), "groups"
    elif is_classes and kind is SplitType.STRATIFIED:
        # of two rows of a class the hold-out may have taken one, where no class has more
        most, of = max(2, int(np.unique(y, return_counts=True)[1].min())), "rows of the rarest class"
    else:
        most, of = len(y) - (kind is SplitType.TIME), "rows"
    if explicit and wanted > most:
        raise DataError(
            f"spec.dataset.split.folds must be at most the number of {of} that are left for training, {most}, got {wanted}",
            reason=Reason.TOO_FEW_ROWS,
        )
    if most < 2:
        raise DataError(f"at least two {of} are needed for two folds, got {most}; add rows", reason=Reason.TOO_FEW_ROWS)
    return max(2, min(wanted, most))


def _folds(
    y: np.ndarray,
    kind: SplitType,
    is_classes: bool,
    count: int,
    seed: int,
    groups: np.ndarray | None,
    time: np.ndarray | None,
) -> np.ndarray:
    fold = np.full(len(y), TRAIN_ONLY, dtype=np.int16)
    if kind is SplitType.TIME:
        assert time is not None
        # an expanding window: the first part is only trained on, each later one is predicted from all before it
        for number, part in enumerate(np.array_split(_by_time(time), count + 1)):
            fold[part] = number - 1
        return fold
    if kind is SplitType.STRATIFIED and is_classes:
        _, of, rows = np.unique(y, return_inverse=True, return_counts=True)
        several = rows[of] > 1
        # the last row of a class, where the hold-out has the other, is learned from in every fold
        if several.any() and not several.all():
            fold[several] = _folds(y[several], kind, is_classes, count, seed, None, None)
            return fold
    for number, (_, valid) in enumerate(_splits(y, kind, is_classes, count, seed, groups)):
        fold[valid] = number
    return fold


def _splits(
    y: np.ndarray, kind: SplitType, is_classes: bool, count: int, seed: int, groups: np.ndarray | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    stratify = is_classes and np.unique(y, return_counts=True)[1].min() >= count
    if kind is SplitType.GROUP:
        if stratify and groups is not None and len(np.unique(groups)) <= MAX_STRATIFIED_GROUPS:
            splits = list(StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(y, y, groups))
            # balancing classes may leave a fold without rows where groups are few
            if all(len(valid) for _, valid in splits):
                return splits
        return list(GroupKFold(count, shuffle=True, random_state=seed).split(y, y, groups))
    if kind is SplitType.STRATIFIED and stratify:
        return list(StratifiedKFold(count, shuffle=True, random_state=seed).split(y, y))
    return list(KFold(count, shuffle=True, random_state=seed).split(y))


def _by_time(time: np.ndarray) -> np.ndarray:
    return np.argsort(time, kind="stable")


def _too_few_groups(groups: np.ndarray, needed: int) -> DataError:
    return DataError(
        f"spec.dataset.split.groupColumn must hold at least {needed} different groups, got {len(np.unique(groups))}",
        reason=Reason.TOO_FEW_ROWS,
    )
