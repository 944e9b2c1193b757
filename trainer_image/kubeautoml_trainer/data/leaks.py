"""Ways in which scores come out better than the model will be: columns that give the target away, rows on both sides of a split,
identifiers, entities whose rows share their target.

Called once a job, by the pod that prepares the data. Everything is looked at in a bounded number of rows, and in a time that is bounded
too; every sentence names the column, the figure, and what to do.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from kubeautoml.api.dataset import ColumnType, Split
from kubeautoml_trainer.data.base import Column, Rows, Schema

GIVEAWAY = 0.99
"""Balanced accuracy, or explained variance, on rows not looked at, from which a column alone is more likely a copy of the target than a
discovery; on iris, wine and breast cancer the best column reaches 0.96."""
GIVEAWAY_AUC = 0.995
GIVEAWAY_CORRELATION = 0.9999
"""Of ranks, too: whatever grows with the target is the target by another name."""

RARE = 0.1
"""Share of a class below which its rows are too few to judge a column by their neighbours."""

MEMORY = 0.9
"""What the levels of a column must tell of the target, on rows not looked at, to be entities that share it; a guess."""
MIN_ROWS, MIN_CLASS_ROWS = 20, 5

DUPLICATE_SHARE = 0.01
DUPLICATE_ROWS = 5
"""Fewer are chance: iris has two flowers of the same measures."""
SAME_TARGET = 0.98
"""Copies have the target of the original. Rows that only look alike, as in data of a few categories, differ in it."""

LARGE_IMAGE, LINES = 16_384, 16
"""Bytes of an image from which on only about so many lines tell copies."""

CELLS = 20_000_000
MAX_ROWS = 50_000
SECONDS = 5.0
"""For all columns together; what is not looked at by then is left out."""


@dataclass(frozen=True)
class Sample:
    """Every so-manieth training row: x by name (object or float64, (n,)), coded target, number of classes (0 for numbers)."""

    columns: dict[str, np.ndarray]
    y: np.ndarray
    classes: int


def leak_warnings(train: Rows, fold: np.ndarray, holdout: Rows, schema: Schema, split: Split) -> list[str]:
    """One sentence each, the worst first.

    Args:
        fold: int16 (len(train),), as in `PreparedData.fold`.
        split: spec.dataset.split, for the columns it names.
    """
    return [
        *column_leaks(train, schema, split, time.monotonic() + SECONDS),
        *duplicates(train, fold, holdout),
    ]


def column_leaks(train: Rows, schema: Schema, split: Split, deadline: float) -> list[str]:
    """Columns that tell the target by themselves, those whose levels share it, and those that number the rows."""
    rows = len(train)
    step = max(1, -(-rows // max(2 * MIN_ROWS, min(MAX_ROWS, CELLS // max(1, len(schema.features))))))
    at = np.arange(0, rows, step)
    y = train.y[at]
    giveaways, entities, counters = [], [], []
    for column in schema.features:
        if time.monotonic() > deadline:
            break
        if column.type is ColumnType.IMAGE:
            continue
        x = train.frame[column.name].to_numpy()
        if column.name != split.time_column and _counts_rows(column, x):
            counters.append(column.name)
        x = x[at]
        if _gives_away(x, y, len(schema.classes)):
            giveaways.append(column.name)
        elif (
            split.group_column is None
            and _is_entity(column, x, rows)
            and _level_score(x, y, len(schema.classes)) >= MEMORY
        ):
            entities.append(column.name)
    return [
        *(
            f"column '{name}' alone predicts '{schema.target}'; make sure it is known at prediction time"
            for name in giveaways
        ),
        *(
            f"rows with the same '{name}' share their '{schema.target}'; set spec.dataset.split.groupColumn to '{name}', "
            "or scores tell only how well they are remembered"
            for name in entities
        ),
        *(
            f"column '{name}' numbers the rows in their order, as an identifier does; name it in spec.dataset.columns.ignore "
            "unless new rows have it, too"
            for name in counters
        ),
    ]


def _counts_rows(column: Column, x: np.ndarray) -> bool:
    """Whether whole numbers only grow, or only fall, from row to row (the training rows keep the order of the file)."""
    if column.type is not ColumnType.NUMBER or not column.is_integer or len(x) < MIN_ROWS or np.isnan(x).any():
        return False
    steps = np.diff(x)
    return bool((steps > 0).all() or (steps < 0).all())


def _gives_away(x: np.ndarray, y: np.ndarray, classes: int) -> bool:
    known = _known(x)
    if classes and _gap_tells(known, y, classes):
        return True
    x, y = x[known], y[known]
    if len(y) < MIN_ROWS or len(np.unique(y)) < 2:
        return False
    if x.dtype == object:
        return not _many_levels(x, classes) and _level_score(x, y, classes) >= GIVEAWAY
    if _is_unordered(x, y, classes):
        return False
    if classes == 2 and _auc(x, y) >= GIVEAWAY_AUC:
        return True
    if (
        classes == 0
        and max(abs(_correlation(x, y)), abs(_correlation(rankdata(x), rankdata(y)))) >= GIVEAWAY_CORRELATION
    ):
        return True
    return _neighbour_score(x, y, classes) >= GIVEAWAY


def _is_unordered(x: np.ndarray, y: np.ndarray, classes: int) -> bool:
    """Whether neighbours in the order of x differ in y half as much as chance would have it, or more: a look that spares most columns
    the closer ones. Of a column that tells the target they differ by a few per cent of that (an AUC of 0.995 allows for a third where
    a tenth of the rows is positive). Rare classes, and classes that are many, are never judged by it.
    """
    order = np.argsort(x)
    if classes == 0:
        # ranks, too: one huge value would hide an order from the squares, and many small ones a group from the ranks
        return _differs(y[order]) and _differs(rankdata(y)[order])
    share = float((y == 1).mean())
    if classes > 2 or not RARE <= share <= 1 - RARE:
        return False
    ordered = y[order]
    return bool((ordered[1:] != ordered[:-1]).mean() >= share * (1 - share))  # chance: twice as often


def _differs(values: np.ndarray) -> bool:
    """Whether the mean square of successive differences is half of what it is by chance (twice the variance; von Neumann, 1941)."""
    return bool(np.square(np.diff(values)).mean() >= values.var())


def _known(x: np.ndarray) -> np.ndarray:
    return np.array([v is not None for v in x], dtype=bool) if x.dtype == object else np.isfinite(x)


def _gap_tells(known: np.ndarray, y: np.ndarray, classes: int) -> bool:
    """Whether the column is there for one class (or some) and not for the others, as what is filled in afterwards is."""
    if known.all() or not known.any():
        return False
    halves = np.arange(len(y)) % 2 == 0
    return _table_score(known.astype(np.intp), 2, y, halves, classes) >= GIVEAWAY


def _many_levels(x: np.ndarray, classes: int) -> bool:
    """Whether the levels are too many to be a code of the target; then they are entities."""
    return int(pd.Series(x).nunique()) > max(2 * classes, len(x) / 20, 20)


def _is_entity(column: Column, x: np.ndarray, rows: int) -> bool:
    """Whether values come back often enough to be remembered, and are too many to be a property."""
    is_code = column.type is ColumnType.CATEGORY or (column.type is ColumnType.NUMBER and column.is_integer)
    return is_code and rows / 50 <= column.unique <= rows / 2 and column.unique > 20


def _level_score(x: np.ndarray, y: np.ndarray, classes: int) -> float:
    """How well the commonest class, or the mean, of a level's rows tells the target of its other rows."""
    codes, levels = pd.factorize(x)
    known = codes >= 0
    codes, y = codes[known], y[known]
    return _table_score(codes, len(levels), y, _halves(codes), classes)


def _halves(codes: np.ndarray) -> np.ndarray:
    """bool (n,): every other row of each level."""
    order = np.argsort(codes, kind="stable")
    first = np.searchsorted(codes[order], codes[order])
    half = np.empty(len(codes), dtype=bool)
    half[order] = (np.arange(len(codes)) - first) % 2 == 0
    return half


def _neighbour_score(x: np.ndarray, y: np.ndarray, classes: int) -> float:
    """How well the nearest value among half of the rows tells the target of the other half; finds any form of dependence."""
    codes = np.searchsorted(values := np.unique(x), x)
    learned = np.random.default_rng(0).random(len(x)) < 0.5
    seen = np.unique(codes[learned])
    if not len(seen):
        return 0.0
    known = values[seen]
    right = np.clip(np.searchsorted(known, x), 1, max(1, len(known) - 1))
    left = right - 1
    right = np.minimum(right, len(known) - 1)
    nearest = np.where(x - known[left] <= known[right] - x, left, right)
    return _table_score(nearest, len(known), y, learned, classes)


def _table_score(codes: np.ndarray, size: int, y: np.ndarray, learned: np.ndarray, classes: int) -> float:
    """Balanced accuracy, or explained variance, of a table code -> target that is learned from one part, on the other."""
    asked = ~learned
    if asked.sum() < MIN_ROWS or learned.sum() < MIN_ROWS:
        return 0.0
    if classes:
        # one number a code and class would not fit for many of both: count the pairs that there are
        pairs, counts = np.unique(codes[learned] * classes + y[learned], return_counts=True)
        order = np.argsort(counts, kind="stable")
        table = np.full(size, int(np.bincount(y[learned], minlength=classes).argmax()))
        table[pairs[order] // classes] = pairs[order] % classes
        right = table[codes[asked]] == y[asked]
        of_class = np.bincount(y[asked], minlength=classes)
        told = np.bincount(y[asked], weights=right, minlength=classes)
        enough = of_class >= MIN_CLASS_ROWS
        return float((told[enough] / of_class[enough]).mean()) if enough.sum() >= 2 else 0.0
    sums = np.bincount(codes[learned], weights=y[learned], minlength=size)
    rows = np.bincount(codes[learned], minlength=size)
    table = np.where(rows > 0, sums / np.maximum(rows, 1), y[learned].mean())
    spread = float(np.square(y[asked] - y[asked].mean()).sum())
    return 1 - float(np.square(y[asked] - table[codes[asked]]).sum()) / spread if spread > 0 else 0.0


def _auc(x: np.ndarray, y: np.ndarray) -> float:
    positives = int((y == 1).sum())
    negatives = len(y) - positives
    if not positives or not negatives:
        return 0.5
    ranks = rankdata(x)
    auc = (ranks[y == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives)
    return float(max(auc, 1 - auc))


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    return 0.0 if np.ptp(x) == 0 or np.ptp(y) == 0 else float(np.corrcoef(x, y)[0, 1])


def duplicates(train: Rows, fold: np.ndarray, holdout: Rows) -> list[str]:
    """Rows that are in a fold's training part and in its validation part as well; and in the training rows and the hold-out."""
    most = min(4 * MAX_ROWS, max(1000, CELLS // max(1, train.frame.shape[1])))
    rows, kept = train.take(_first(train, most)), fold[:most]
    keys, tests = _keys(rows.frame), _keys(holdout.frame.head(most))
    has_time = bool((fold < 0).any())
    said = []
    found = _across_folds(keys, rows.y, kept, has_time)
    if found is not None:
        share, agree = found
        if _is_much(share, int((kept >= 0).sum())) and agree >= SAME_TARGET:
            said.append(
                f"{share:.0%} of the validation rows are copies of others that a model is trained on; scores are too good: "
                "remove duplicates, or keep them together by spec.dataset.split.groupColumn"
            )
    if len(tests):
        share, agree = _shared(keys, rows.y, tests, holdout.y[:most])
        if _is_much(share, len(tests)) and agree >= SAME_TARGET:
            said.append(
                f"{share:.0%} of the hold-out rows are copies of training rows; its scores are too good: remove duplicates"
            )
    return said


def _is_much(share: float, rows: int) -> bool:
    return share > DUPLICATE_SHARE and share * rows >= DUPLICATE_ROWS


def _first(rows: Rows, most: int) -> np.ndarray:
    return np.arange(min(len(rows), most))


def _keys(frame: pd.DataFrame) -> np.ndarray:
    """uint64 (n,): equal for rows with equal features; of images, equal pixels."""
    images = [n for n in frame if isinstance(next((v for v in frame[n] if v is not None), None), np.ndarray)]
    digests = {n: np.array([_digest(v) for v in frame[n]], dtype=np.uint64) for n in images}
    return np.asarray(pd.util.hash_pandas_object(frame.assign(**digests), index=False))


def _digest(pixels: np.ndarray | None) -> int:
    """8 bytes that stand for an image; of a large one some lines, or all images would be read from the disk."""
    if pixels is None:
        return 0
    some = pixels[:: max(1, len(pixels) // LINES)] if pixels.nbytes > LARGE_IMAGE else pixels
    return int.from_bytes(hashlib.blake2b(some.tobytes(), digest_size=8).digest(), "little")


def _across_folds(keys: np.ndarray, y: np.ndarray, fold: np.ndarray, has_time: bool) -> tuple[float, float] | None:
    """Share of the validated rows that have a twin in their training part, and how often the twin has the same target."""
    validated = fold >= 0
    if not validated.any():
        return None
    share, agree, rows = 0.0, 0.0, 0
    for number in np.unique(fold[validated]):
        valid = fold == number
        train = fold < number if has_time else ~valid
        part, same = _shared(keys[train], y[train], keys[valid], y[valid])
        share, agree, rows = share + part * valid.sum(), agree + same * part * valid.sum(), rows + int(valid.sum())
    return share / rows, agree / share if share else 0.0


def _shared(keys: np.ndarray, y: np.ndarray, asked: np.ndarray, asked_y: np.ndarray) -> tuple[float, float]:
    """Share of the asked rows whose key is among the keys, and the share of those with a twin's target."""
    if not len(keys) or not len(asked):
        return 0.0, 0.0
    order = np.argsort(keys, kind="stable")
    place = np.minimum(np.searchsorted(keys[order], asked), len(keys) - 1)
    twin = order[place]
    found = keys[twin] == asked
    return float(found.mean()), float((y[twin] == asked_y)[found].mean()) if found.any() else 0.0
