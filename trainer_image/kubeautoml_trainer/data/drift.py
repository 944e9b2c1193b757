"""Whether data changes: between the training rows and the hold-out, and along the order of the rows.

A hold-out that is drawn at random from the same rows cannot differ but by chance, so only test files and splits by time or group are
looked at.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from kubeautoml.api.dataset import ColumnType, SplitType
from kubeautoml_trainer.data.base import Rows, Schema

ADVERSARIAL_AUC = 0.6
"""From which training rows and hold-out are told apart; beyond what chance does with so few rows."""
ROWS_A_SIDE = 5_000
MAX_COLUMNS = 500
ROUNDS = 40

BLOCKS = 10
TARGET_SHARE = 0.2
"""Share of the target's variance that lies between ten parts of the file, from which its order matters. A guess: breast cancer, whose
first rows are mostly malignant, stays below; a class that fades in over the whole file comes to 0.33."""
MIN_ROWS = 200


def holdout_drift(
    train: Rows, holdout: Rows, schema: Schema, kind: SplitType | None, time_column: str | None = None
) -> list[str]:
    """How well a small LightGBM tells training rows from the hold-out, by cross-validation, and by which columns.

    Args:
        kind: how the hold-out was split off; None for a test file.
        time_column: what a split by time goes by, which tells them apart by itself.
    """
    if kind in (SplitType.RANDOM, SplitType.STRATIFIED) or min(len(train), len(holdout)) < 2 * BLOCKS:
        return []
    names = [
        c.name for c in schema.features if c.type not in (ColumnType.TEXT, ColumnType.IMAGE) and c.name != time_column
    ][:MAX_COLUMNS]
    if not names:
        return []
    random = np.random.default_rng(0)
    sides = [_some(r.frame[names], random) for r in (train, holdout)]
    x, is_test = _codes(sides[0], sides[1]), np.repeat([0, 1], [len(s) for s in sides])
    auc, gains = _told_apart(x, is_test)
    chance = 0.5 + 3 * np.sqrt((1 / len(sides[0]) + 1 / len(sides[1])) / 12)
    if auc < max(ADVERSARIAL_AUC, chance):
        return []
    most = [f"'{names[k]}'" for k in np.argsort(-gains, kind="stable")[:3] if gains[k] > 0.25 * gains.max()]
    what = f"training rows and hold-out can be told apart (AUC {auc:.2f}), most by {', '.join(most)}"
    if kind is SplitType.TIME:
        return [f"{what}; that is expected of a split by time: leave out what only tells the time"]
    if kind is SplitType.GROUP:
        return [f"{what}; groups differ: leave out columns that only tell the group"]
    return [f"{what}; the test file is of another kind: draw both alike, or leave these columns out"]


def _some(frame: pd.DataFrame, random: np.random.Generator) -> pd.DataFrame:
    if len(frame) <= ROWS_A_SIDE:
        return frame
    return frame.iloc[np.sort(random.choice(len(frame), ROWS_A_SIDE, replace=False))]


def _codes(train: pd.DataFrame, holdout: pd.DataFrame) -> np.ndarray:
    """float64 (n, columns); categories by frequency in both, so that a new level stands out as a rare one."""
    both = pd.concat([train, holdout], ignore_index=True)
    columns = [_frequency(both[n]) if both[n].dtype == object else both[n].to_numpy() for n in both]
    return np.stack(columns, axis=1)


def _frequency(words: pd.Series) -> np.ndarray:
    codes, levels = pd.factorize(words)
    rank = np.empty(len(levels) + 1)
    rank[-1] = np.nan
    rank[np.argsort(-np.bincount(codes[codes >= 0], minlength=len(levels)), kind="stable")] = np.arange(len(levels))
    return np.asarray(rank[codes])


def _told_apart(x: np.ndarray, is_test: np.ndarray) -> tuple[float, np.ndarray]:
    """AUC over rows not looked at, in two folds; and the gain of each column."""
    import lightgbm as lgb

    half = np.random.default_rng(1).permutation(len(x)) % 2 == 0
    score, gains = np.zeros(len(x)), np.zeros(x.shape[1])
    settings = {
        "objective": "binary",
        "num_leaves": 8,
        "learning_rate": 0.1,
        "min_data_in_leaf": max(5, len(x) // 200),
        "is_unbalance": True,
        "num_threads": 1,
        "seed": 0,
        "deterministic": True,
        "force_col_wise": True,
        "verbosity": -1,
    }
    for part in (half, ~half):
        booster = lgb.train(settings, lgb.Dataset(x[~part], is_test[~part]), ROUNDS)
        # ranks, as the scores of two boosters do not compare
        score[part] = pd.Series(np.asarray(booster.predict(x[part]))).rank(pct=True)
        gains += booster.feature_importance("gain")
    positives = int(is_test.sum())
    ranks = pd.Series(score).rank().to_numpy()
    auc = (ranks[is_test == 1].sum() - positives * (positives + 1) / 2) / (positives * (len(x) - positives))
    return float(auc), gains


def target_drift(train: Rows, schema: Schema, time: np.ndarray | None) -> list[str]:
    """Whether the target changes from the first rows to the last, or from the earliest to the latest.

    A file that is sorted by its target says nothing, and is left out.

    Args:
        time: (len(train),), numbers that grow with time; None for the order of the file.
    """
    y = train.y if time is None else train.y[np.argsort(time, kind="stable")]
    if len(y) < MIN_ROWS or (time is None and _is_sorted(y, len(schema.classes))):
        return []
    values = [(y == c).astype(np.float64) for c in range(len(schema.classes))] if schema.classes else [_ranks(y)]
    shares = [_between(v) for v in values]
    worst = int(np.argmax(shares))
    if shares[worst] < TARGET_SHARE:
        return []
    ends = [y[: len(y) // BLOCKS], y[-(len(y) // BLOCKS) :]]
    told: Callable[[np.ndarray], str] = (
        (lambda part: f"{(part == worst).mean():.0%}") if schema.classes else (lambda part: f"{part.mean():.4g}")
    )
    what = f"the share of class '{schema.classes[worst]}'" if schema.classes else f"the mean of '{schema.target}'"
    moves = f"{what} goes from {told(ends[0])} in the first tenth of the rows to {told(ends[1])} in the last"
    if time is not None:
        return [f"{moves}, by time; expect scores to be worse on later rows"]
    return [f"{moves}; if the rows are in order of time, set spec.dataset.split.timeColumn"]


def _is_sorted(y: np.ndarray, classes: int) -> bool:
    """Whether equal or growing targets stand together."""
    if classes:
        return bool(np.count_nonzero(np.diff(y)) < 2 * classes)
    steps = np.diff(y)
    return bool((steps >= 0).all() or (steps <= 0).all())


def _ranks(y: np.ndarray) -> np.ndarray:
    return np.asarray(pd.Series(y).rank(), dtype=np.float64)


def _between(values: np.ndarray) -> float:
    """Share of the variance that lies between the blocks, less what chance puts there."""
    total = float(values.var())
    if total == 0:
        return 0.0
    blocks = np.array_split(values, BLOCKS)
    between = sum(len(b) * (b.mean() - values.mean()) ** 2 for b in blocks) / len(values)
    return float(between / total) - BLOCKS / len(values)
