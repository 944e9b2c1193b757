"""Each generator on values worked out by hand, and on values that break things."""

import numpy as np
import pandas as pd
import pytest

from kubeautoml_trainer.features.arithmetic import Arithmetic
from kubeautoml_trainer.features.categories import Levels, fit_frequencies, fit_levels
from kubeautoml_trainer.features.choose import keep_unlike
from kubeautoml_trainer.features.columns import Columns
from kubeautoml_trainer.features.crosses import fit_crosses
from kubeautoml_trainer.features.datetimes import date_differences, datetime_parts
from kubeautoml_trainer.features.groups import DIFFERENCE, MEAN, RANK, RATIO, fit_groups
from kubeautoml_trainer.features.indicators import fit_indicators
from kubeautoml_trainer.features.numbers import fit_scaling
from kubeautoml_trainer.features.polynomials import products
from kubeautoml_trainer.features.selection import best_columns
from kubeautoml_trainer.features.target_means import (
    MAX_TARGETS,
    fit_out_of_fold,
    fit_target_means,
    inner_folds,
    target_columns,
)
from kubeautoml_trainer.features.text_statistics import text_statistics


def seconds(text: str) -> float:
    return float(np.datetime64(text, "s").astype(np.int64))


@pytest.mark.parametrize(
    ("date", "weekend", "first", "last", "quarter", "of_year"),
    [
        ("2024-02-29T12:00:00", 0, 0, 1, 1, 60),
        ("2023-12-31", 1, 0, 1, 4, 365),
        ("1969-11-01", 1, 1, 0, 4, 305),
        ("1900-02-28", 0, 0, 1, 1, 59),
        ("0001-01-01", 0, 1, 0, 1, 1),
    ],
)
def test_calendar_facts_hold_before_1970_and_in_leap_years(date, weekend, first, last, quarter, of_year):
    """Weekend, ends of the month, quarter, day of the year."""
    parts = datetime_parts(np.array([[seconds(date)]]), np.zeros(1), cyclic=False, calendar=True)

    assert parts[0, 6:].tolist() == [weekend, first, last, quarter, of_year]


def test_the_days_between_two_dates_are_missing_where_either_is():
    """Three columns give three pairs; the years before 1970 count like the others."""
    x = np.array([[seconds("1969-12-30"), seconds("1970-01-02"), np.nan]])

    assert date_differences(x)[0].tolist()[:1] == [3.0]
    assert np.isnan(date_differences(x)[0, 1:]).all()


def test_text_statistics_measure_any_script():
    """Characters, words, mean length, digits, capitals, marks."""
    stats = text_statistics(np.array(["Ab 12!", "东京", None, "  "], dtype=object))

    assert stats[0].tolist() == [np.log(7), np.log(3), 2.5, 2 / 6, 1 / 6, 1 / 6]
    assert stats[1].tolist() == [np.log(3), np.log(2), 2.0, 0.0, 0.0, 0.0]
    assert np.isnan(stats[2]).all() and stats[3].tolist() == [np.log(3), 0, 0, 0, 0, 0]


def test_frequencies_count_training_rows():
    """Unseen levels have no rows, and rare ones together are not frequent."""
    codes = np.array([[2], [2], [3], [1], [1], [1], [0]])

    table = fit_frequencies(codes, [5]).apply(np.array([[2], [3], [4], [1], [0]]))

    assert table[:, 0].tolist() == np.log1p([2, 1, 0, 1, 1]).tolist()


def test_only_gaps_that_say_something_get_an_indicator():
    """And of two columns with the same gaps, one does; a column without any or with nothing but gaps does not."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 600).astype(float)
    telling, noise = rng.random(600) < 0.1 + 0.5 * y, rng.random(600) < 0.3
    gaps = [noise, telling, telling, np.zeros(600, bool), np.ones(600, bool)]

    assert fit_indicators(gaps, y[:, None], np.ones(600)).tolist() == [1]


def test_target_means_shrink_by_the_prior_and_know_nothing_of_unseen_codes():
    """Two rows of 1 and ten of the overall mean; a code without rows gets the overall mean to the last bit."""
    codes, y = np.array([[2], [2], [3], [3]]), np.array([[1.0], [1.0], [0.0], [0.0]])

    means = fit_target_means(codes, [0], [5], y, np.ones(4), prior_rows=10.0).means[:, 0]

    assert means.tolist() == pytest.approx([0.5, 0.5, 7 / 12, 5 / 12, 0.5])
    assert means[4] == means[0] == 0.5


def test_out_of_fold_means_leave_no_trace_of_the_own_target():
    """Changing one row's target changes no value of that row, not even by rounding."""
    rng = np.random.default_rng(0)
    codes, y = rng.integers(2, 30, (300, 1)), rng.normal(1e6, 1, (300, 1))
    fold = inner_folds(300, None, 0)
    changed = y.copy()
    changed[fold == 2] = rng.normal(size=(int((fold == 2).sum()), 1))

    before, after = (
        fit_out_of_fold(codes, [0], [32], t, np.ones(300), 10.0, fold).apply(codes, slice(None)) for t in (y, changed)
    )

    assert np.array_equal(before[fold == 2], after[fold == 2])
    assert not np.array_equal(before[fold != 2], after[fold != 2])


def test_rows_of_a_group_share_a_fold():
    """So a row's mean is not learned from its own group."""
    groups = np.array(["a", "b", "c", "d", "e", "f"] * 50, dtype=object)

    fold = inner_folds(300, groups, seed=1)

    assert all(len(set(fold[groups == g])) == 1 for g in set(groups)) and len(set(fold)) == 5


def test_one_group_alone_gets_the_overall_mean():
    """Nothing else could be learned without its own targets ... of which only the mean is left."""
    codes, y = np.array([[2], [3]] * 10), np.array([[0.0], [1.0]] * 10)
    fold = inner_folds(20, np.array(["g"] * 20, dtype=object), 0)

    own = fit_out_of_fold(codes, [0], [4], y, np.ones(20), 10.0, fold).apply(codes, slice(None))

    assert (own == 0.5).all()


def test_a_thousand_classes_give_few_target_columns():
    """The most frequent have one each; for two classes one says all."""
    y = np.repeat(np.arange(1000), np.arange(1, 1001))

    columns = target_columns(y, 1000)

    assert columns.shape[1] == MAX_TARGETS and columns.sum(axis=0).tolist() == list(range(981, 1001))
    assert target_columns(np.array([0, 1, 1]), 2).tolist() == [[0.0], [1.0], [1.0]]


def test_arithmetic_of_huge_numbers_is_missing_not_infinite():
    """Overflow, division by zero and missing operands give NaN."""
    all_four = Arithmetic(np.zeros(4, np.intp), np.ones(4, np.intp), np.arange(4))

    out = all_four.apply(np.array([[1e308, 1e308], [1.0, 0.0], [np.nan, 1.0], [6.0, 3.0]]))

    assert np.isnan(out[0, [0, 2]]).all() and out[0, 3] == 1.0
    assert out[1].tolist()[:3] == [1.0, 1.0, 0.0] and np.isnan(out[1, 3])
    assert np.isnan(out[2]).all() and out[3].tolist() == [9.0, 3.0, 18.0, 2.0]


def test_crosses_know_the_pairs_of_training():
    """Rare and unseen pairs are OTHER; a pair of gaps is a pair like others."""
    codes = np.array([[2, 2], [2, 2], [3, 2], [0, 0], [0, 0]], dtype=np.int32)

    crosses = fit_crosses(codes, [(0, 1)], [5, 5], min_rows=2)

    assert crosses.apply(np.array([[2, 2], [3, 2], [4, 4], [0, 0]], dtype=np.int32))[:, 0].tolist() == [3, 1, 1, 2]
    assert crosses.sizes == [4]


def test_crosses_without_any_frequent_pair_are_none():
    """Nothing could be looked up."""
    assert fit_crosses(np.array([[2, 3], [3, 2]], dtype=np.int32), [(0, 1)], [5, 5], min_rows=2) is None


def test_groups_compare_a_number_with_its_category():
    """Mean (shrunk), ratio, difference, rank; a missing number has no rank, an unseen category takes all rows'."""
    x = np.concatenate([np.arange(10.0), 100 + np.arange(10.0)])[:, None]
    codes = np.repeat([[2], [3]], 10, axis=0).astype(np.int32)
    wanted = [(kind, 0, 0) for kind in (MEAN, RATIO, DIFFERENCE, RANK)]

    groups = fit_groups(x, codes, wanted, [5])
    out = groups.apply(np.array([[4.5], [np.nan], [300.0], [104.5]]), np.array([[2], [2], [4], [3]], dtype=np.int32))

    mean = (45 + 2 * 54.5) / 12
    assert out[0, :3].tolist() == pytest.approx([mean, 4.5 / mean, 4.5 - mean])
    assert out[0, 3] == out[3, 3] == pytest.approx(0.5, abs=0.06) and out[2, 3] == 1.0
    assert out[1, 0] == pytest.approx(mean) and np.isnan(out[1, 1:]).all()
    assert out[2, 0] == 54.5


def test_features_with_the_same_ranks_are_kept_once():
    """A monotone function of a kept column says nothing new; a constant says nothing."""
    x = np.random.default_rng(0).normal(size=(200, 1))
    columns = np.hstack([x, np.exp(x), -x, np.ones_like(x), x**2])

    assert keep_unlike(columns, np.arange(5), 5).tolist() == [0, 4]


def test_the_best_columns_go_with_the_target():
    """By correlation, ties and constants last; at least one stays."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=(300, 1))
    x = np.hstack([rng.normal(size=(300, 1)), -y + 0.1 * rng.normal(size=(300, 1)), np.ones((300, 1)), y])

    assert best_columns(x, y, np.ones(300), 0.5).tolist() == [1, 3]
    assert best_columns(x, y, np.ones(300), 0.01).tolist() == [3]


def test_products_are_all_pairs():
    """Squares among them."""
    assert products(np.array([[1.0, 2.0, 3.0]])).tolist() == [[1.0, 2.0, 3.0, 4.0, 6.0, 9.0]]


@pytest.mark.parametrize("kind", ["unscaled", "standard", "robust", "quantile", "skew"])
def test_scaling_bears_huge_numbers_and_columns_of_gaps(kind):
    """What comes out is finite."""
    x = np.stack([np.array([1e308, -1e308, 1.0, 2.0]), np.full(4, np.nan), np.full(4, 1e300)], axis=1)

    assert np.isfinite(fit_scaling(x, kind).apply(x)).all()


def test_codes_of_many_values_are_those_of_few():
    """The quick way for many values gives the same codes."""
    rng = np.random.default_rng(0)
    values = rng.choice(np.array(["a", "b", "new", None, np.nan], dtype=object), 5_000)
    levels = Levels(("b", "a"), gaps=True, others=False)

    columns = Columns(pd.DataFrame({"x": values}))

    assert np.array_equal(levels.codes_of(*columns.distinct("x")), levels.codes(values))


def test_a_hundred_thousand_levels_are_folded():
    """At most as many as wanted stay, none rarer than wanted."""
    values = np.array([f"id{k}" for k in range(100_000)] + ["often"] * 3, dtype=object)

    assert fit_levels(values, 1000, 2).levels == ("often",)
    assert len(fit_levels(values, 1000, 1).levels) == 1000
