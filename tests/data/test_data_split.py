"""Hold-out and folds: complete, seeded, never across groups nor back in time, and no class is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kubeautoml.api.conditions import Reason
from kubeautoml.api.dataset import SplitType
from kubeautoml.api.errors import DataError
from kubeautoml_trainer.data.split import TRAIN_ONLY, Assignment, assign, default_folds, resolve


def draw(y: np.ndarray, kind: SplitType, **changes: object) -> Assignment:
    """A split of classes with a fifth held out."""
    usual = {"is_classes": True, "test_fraction": 0.2, "folds": None, "seed": 1}
    return assign(y, kind=kind, **{**usual, **changes})


def folds_of(found: Assignment) -> set[int]:
    return set(found.fold[~found.holdout].tolist())


@pytest.mark.parametrize(
    ("rows", "folds"),
    [(60, 7), (79, 7), (80, 8), (20_000, 8), (20_001, 5), (100_000, 5), (100_001, 3), (10**6, 3), (10**6 + 1, 1)],
)
def test_the_number_of_folds_follows_the_rows(rows: int, folds: int):
    """Many where rows are few, few where a fit is long."""
    assert default_folds(rows) == folds


@pytest.mark.parametrize(
    ("rows", "values_a_second", "folds"),
    [
        (60, 1e6, 3),
        (5_000, 1_000, 8),
        (5_000, 1_001, 5),
        (50_000, 1_000, 5),
        (5_000, 20_001, 3),
        (250_000, 1e6, 3),
        (250_001, 200_000, 3),
        (250_001, 200_001, 1),
    ],
)
def test_little_time_for_much_data_makes_fewer_folds(rows: int, values_a_second: float, folds: int):
    """With eight of them a short job would try too few models; never more than the rows ask for."""
    assert default_folds(rows, values_a_second) == folds


def test_auto_follows_task_and_columns():
    """A named time or group column decides, then the task."""

    def auto(is_classes: bool, has_groups: bool, has_time: bool) -> SplitType:
        return resolve(SplitType.AUTO, is_classes=is_classes, has_groups=has_groups, has_time=has_time)

    assert auto(True, False, False) is SplitType.STRATIFIED
    assert auto(False, False, False) is SplitType.RANDOM
    assert auto(True, True, False) is SplitType.GROUP
    assert auto(False, True, True) is SplitType.TIME


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(2, 40), min_size=2, max_size=6), st.integers(0, 2**31 - 1))
@example([2, 2, 2, 2, 2], 0)
def test_stratified_splits_keep_each_class_to_learn_from(counts: list[int], seed: int):
    """Every class is in the training rows of every fold, and shares of large classes hold in the hold-out.

    Where no class has more than two rows the hold-out takes one of some; their other row is in no fold.
    """
    if sum(counts) < 10:
        counts = [*counts, 10]
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))

    found = draw(y, SplitType.STRATIFIED, seed=seed)

    folds = folds_of(found) - {TRAIN_ONLY}
    for fold in folds:
        learned = ~found.holdout & (found.fold != fold)
        assert len(np.unique(y[learned])) == len(counts)
    held = np.bincount(y[found.holdout], minlength=len(counts))
    stay = 2 if max(counts) > 2 else 1
    assert all(h <= max(0.2 * c + 2, c - 2) and c - h >= stay for h, c in zip(held, counts, strict=True))
    assert set(found.fold[found.holdout].tolist()) == {TRAIN_ONLY}
    assert folds == {0, 1} | set(range(len(folds)))


def test_a_stratified_hold_out_has_the_shares_of_the_data():
    """Both classes are drawn to the row."""
    y = np.repeat([0, 1], [900, 100])

    found = draw(y, SplitType.STRATIFIED)

    assert np.bincount(y[found.holdout]).tolist() == [180, 20]
    assert folds_of(found) == set(range(8))


def test_folds_are_at_most_the_rows_of_the_rarest_class():
    """Otherwise some fold could not validate it."""
    y = np.repeat([0, 1], [100, 4])

    assert len(folds_of(draw(y, SplitType.STRATIFIED, test_fraction=0.0))) == 4


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 15), min_size=40, max_size=120), st.booleans(), st.integers(0, 2**31 - 1))
def test_group_splits_never_cut_a_group(ids: list[int], is_classes: bool, seed: int):
    """All rows of a group are on one side of the hold-out, and in one fold."""
    groups = np.array([*map(str, ids), "a", "b", "c", "d"], dtype=object)
    y = np.random.default_rng(seed).integers(0, 2, len(groups))

    found = draw(y, SplitType.GROUP, groups=groups, is_classes=is_classes, seed=seed)

    for group in np.unique(groups):
        where = groups == group
        assert len(np.unique(found.holdout[where])) == 1
        assert len(np.unique(found.fold[where])) == 1
    assert found.holdout.any()
    assert folds_of(found) == set(range(max(folds_of(found)) + 1))


def test_a_group_hold_out_leaves_every_class_to_learn_from_where_it_can():
    """A class of two groups is not drawn away, whatever the seed."""
    groups = np.repeat(np.arange(12), 10).astype(str).astype(object)
    y = (np.repeat(np.arange(12), 10) < 2).astype(np.int64)

    for seed in range(20):
        found = draw(y, SplitType.GROUP, groups=groups, seed=seed)
        assert set(y[~found.holdout].tolist()) == {0, 1}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=20, max_size=90), st.integers(0, 9))
def test_time_splits_only_look_back(times: list[float], seed: int):
    """The hold-out is last; each fold is validated after all that it learns from; the first part is never validated."""
    time = np.array(times)

    found = draw(np.zeros(len(time)), SplitType.TIME, is_classes=False, time=time, seed=seed)

    assert time[~found.holdout].max() <= time[found.holdout].min()
    folds = folds_of(found)
    assert folds == set(range(-1, max(folds) + 1))
    for fold in folds - {-1}:
        learned = ~found.holdout & (found.fold < fold)
        assert time[learned].max() <= time[~found.holdout & (found.fold == fold)].min()


@pytest.mark.parametrize("kind", [SplitType.STRATIFIED, SplitType.RANDOM, SplitType.GROUP])
def test_a_split_follows_from_its_seed(kind: SplitType):
    """The same seed gives the same rows on every pod; another one gives others."""
    y, groups = np.arange(200) % 2, (np.arange(200) % 40).astype(str)

    first, again, other = (draw(y, kind, groups=groups, seed=seed) for seed in (1, 1, 2))

    assert np.array_equal(first.fold, again.fold)
    assert not np.array_equal(first.fold, other.fold)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (
            SplitType.STRATIFIED,
            {"folds": 9, "test_fraction": 0.0},
            "spec.dataset.split.folds must be at most the number of rows of the rarest class that are left for training, 8, got 9",
        ),
        (
            SplitType.RANDOM,
            {"folds": 20},
            "spec.dataset.split.folds must be at most the number of rows that are left for training, 12, got 20",
        ),
        (
            SplitType.GROUP,
            {"groups": np.array(["a", "b"] * 8)},
            "spec.dataset.split.groupColumn must hold at least 3 different groups, got 2",
        ),
        (
            SplitType.GROUP,
            {"groups": np.array(["a", "b", "c", "d"] * 4), "folds": 4},
            "spec.dataset.split.folds must be at most the number of groups that are left for training, 3, got 4",
        ),
    ],
)
def test_too_little_to_split_is_said_with_the_numbers(kind: SplitType, changes: dict[str, object], message: str):
    """What is there and what was asked for."""
    with pytest.raises(DataError) as caught:
        draw(np.arange(16) % 2, kind, **changes)

    assert (caught.value.reason, str(caught.value)) == (Reason.TOO_FEW_ROWS, message)
