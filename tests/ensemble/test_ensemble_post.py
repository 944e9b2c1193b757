"""What is done to predictions later: calibration, decisions, intervals, fitted on out-of-fold predictions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, matthews_corrcoef
from sklearn.model_selection import cross_val_predict
from sklearn.naive_bayes import GaussianNB

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.metrics import TaskType
from kubeautoml.api.objective import DecisionCost, Intervals, Objective
from kubeautoml_trainer.data.base import Column, Schema
from kubeautoml_trainer.ensemble.calibration import fit_curve, isotonic
from kubeautoml_trainer.ensemble.decisions import decision_value, threshold
from kubeautoml_trainer.ensemble.post import fit_post
from kubeautoml_trainer.tasks import metrics as m
from kubeautoml_trainer.tasks import task_for
from kubeautoml_trainer.tasks.base import Task
from kubeautoml_trainer.tasks.post import IDENTITY, Calibration, Conformal, Decision, Post


def make_task(classes: int, costs: list[DecisionCost] | None = None, quantiles: tuple[float, ...] = ()) -> Task:
    schema = Schema("t", (Column("x", ColumnType.NUMBER),), tuple(f"c{k}" for k in range(classes)), quantiles=quantiles)
    kind = TaskType.TABULAR_CLASSIFICATION if classes else TaskType.TABULAR_REGRESSION
    return task_for(kind, schema, costs=costs or ())


def binary_scores(n: int, seed: int, share: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Over-confident probabilities float32 (n, 2) and classes int64 (n,)."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(np.int64)
    true = 1 / (1 + np.exp(-(rng.normal(1.2 * (2 * y - 1), 1.0))))
    logit = 2.5 * np.log(true / (1 - true))
    p = 1 / (1 + np.exp(-logit))
    return np.stack([1 - p, p], axis=1).astype(np.float32), y


REAL = {
    "breast cancer": (load_breast_cancer, RandomForestClassifier(60, max_depth=4, random_state=0)),
    "wine": (load_wine, RandomForestClassifier(60, random_state=0)),
    "iris": (load_iris, LogisticRegression(C=0.05, max_iter=500)),
    "digits": (load_digits, RandomForestClassifier(40, max_depth=6, random_state=0)),
    "diabetes above its median": (lambda: _halves(load_diabetes()), GaussianNB()),
}


def _halves(bunch):  # type: ignore[no-untyped-def]
    bunch.target = (bunch.target > np.median(bunch.target)).astype(np.int64)
    return bunch


@pytest.mark.parametrize("name", REAL)
def test_calibrated_probabilities_are_true_on_rows_that_did_not_fit_them(name: str):
    """The error of calibration is at most 0.03 above what perfectly calibrated probabilities show by chance on as many rows."""
    load, model = REAL[name]
    bunch = load()
    oof = cross_val_predict(model, bunch.data, bunch.target, cv=5, method="predict_proba")
    y, task, rng = (
        bunch.target.astype(np.int64),
        make_task(len(bunch.target_names) if "target_names" in bunch else 2),
        np.random.default_rng(0),
    )
    halves = rng.permutation(len(y)) % 2
    after = np.zeros_like(oof)
    for half in (0, 1):
        seen = halves != half
        post = fit_post(task, Objective(), oof[seen], y[seen], None, None, seed=0)
        after[~seen] = post.calibrated(oof[~seen])

    by_chance = np.mean(
        [
            m.expected_calibration_error(
                np.array([rng.choice(len(p), p=p / p.sum()) for p in after.astype(float)]), after, np.ones(len(y))
            )
            for _ in range(20)
        ]
    )
    assert m.expected_calibration_error(y, after, np.ones(len(y))) - by_chance <= 0.03


def test_calibration_of_overconfident_scores_lowers_loss_and_error_on_new_rows():
    """Slope and curve bring an error of calibration above 0.1 to below 0.03, and rank rows as before."""
    task = make_task(2)
    for rows in (2_000, 20_000):
        oof, y = binary_scores(rows, seed=1)
        new, truth = binary_scores(20_000, seed=2)
        post, one = fit_post(task, Objective(), oof, y, None, None, seed=0), np.ones(len(truth))

        after = post.calibrated(new)

        assert m.expected_calibration_error(truth, new, one) > 0.05
        assert m.expected_calibration_error(truth, after, one) <= 0.03
        assert m.log_loss(truth, after, one) < m.log_loss(truth, new, one)
        for metric in ("RocAuc", "AveragePrecision"):
            assert task.score(metric, truth, after, None) == pytest.approx(
                task.score(metric, truth, new, None), abs=2e-4
            )


def test_good_probabilities_stay_as_they_are():
    """Noise is no reason to calibrate: the loss must fall on a nested split."""
    rng = np.random.default_rng(0)
    p = rng.random(3_000)
    y = (rng.random(3_000) < p).astype(np.int64)
    scores = np.stack([1 - p, p], axis=1).astype(np.float32)

    after = fit_post(make_task(2), Objective(), scores, y, None, None, seed=0).calibrated(scores)

    assert np.abs(after - scores).max() < 0.03


def test_isotonic_blocks_are_those_of_scikit_learn():
    rng = np.random.default_rng(3)
    x, weight = rng.integers(0, 200, 1_000) / 200, rng.random(1_000) + 0.1
    y = (rng.random(1_000) < x).astype(np.float64)

    at, level, _ = isotonic(x, y, weight)

    expected = IsotonicRegression().fit(x, y, sample_weight=weight).predict(np.unique(x))
    np.testing.assert_allclose(np.unique(level), np.unique(expected.round(12)), atol=1e-9)
    assert np.all(np.diff(at) > 0)


def test_a_curve_makes_no_ties():
    p, y = binary_scores(12_000, seed=4)
    p = p.astype(np.float64)
    curve = fit_curve(p, y, np.ones(len(y)))
    values = np.unique(p[:, 1].round(5))

    after = curve(np.stack([1 - values, values], axis=1))[:, 1]

    assert np.all(np.diff(after) > 0)


@pytest.mark.parametrize(
    ("metric", "measure"),
    [("F1", f1_score), ("MatthewsCorrelation", matthews_corrcoef)],
)
def test_the_threshold_is_the_best_of_all(metric: str, measure):  # type: ignore[no-untyped-def]
    """No cut between two scores does better, tried one by one with scikit-learn."""
    p, y = binary_scores(150, seed=5, share=0.2)
    task = make_task(2)
    value = decision_value(task, metric)
    assert value is not None

    decided = threshold(p, y, np.ones(len(y)), value)(p)

    best = max(measure(y, p[:, 1] >= cut) for cut in np.unique(p[:, 1]))
    assert measure(y, decided) == pytest.approx(best)


def test_decisions_for_f1_are_better_than_the_most_probable_class():
    """On rare classes a threshold below one half finds more of them, also on new rows."""
    task = make_task(2)
    oof, y = binary_scores(4_000, seed=6, share=0.05)
    new, truth = binary_scores(20_000, seed=7, share=0.05)
    post = fit_post(task, Objective(decision_metric="F1"), oof, y, None, None, seed=0)

    tuned = task.score("F1", truth, post.calibrated(new), None, post.decided(new))

    assert tuned > task.score("F1", truth, post.calibrated(new), None) + 0.02


def test_a_ranking_metric_leaves_decisions_to_the_most_probable_class():
    p, y = binary_scores(1_000, seed=8)

    post = fit_post(make_task(2), Objective(metric="RocAuc"), p, y, None, None, seed=0)

    assert post.decision is None


@pytest.mark.parametrize("classes", [2, 3])
def test_costs_are_kept_low(classes: int):
    """Decisions by a cost matrix cost less than the most probable class, on rows that did not choose them."""
    costs = [DecisionCost(actual="c1", predicted="c0", cost="20"), DecisionCost(actual="c0", predicted="c1", cost="1")]
    task = make_task(classes, costs)
    rng = np.random.default_rng(9)
    y = rng.integers(0, classes, 6_000)
    z = rng.normal(size=(6_000, classes)) + 1.5 * np.eye(classes)[y]
    p = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)).astype(np.float32)
    post = fit_post(task, Objective(metric="ExpectedCost", costs=costs), p[:3_000], y[:3_000], None, None, seed=0)

    decided = post.decided(p[3_000:])

    usual = np.argmax(p[3_000:], axis=1)
    assert task.score("ExpectedCost", y[3_000:], p[3_000:], None, decided) < 0.8 * task.score(
        "ExpectedCost", y[3_000:], p[3_000:], None, usual
    )


def test_weights_of_three_classes_raise_balanced_accuracy():
    rng = np.random.default_rng(10)
    y = rng.choice(3, 6_000, p=[0.9, 0.07, 0.03])
    z = rng.normal(size=(6_000, 3)) + 1.5 * np.eye(3)[y] + np.log([0.9, 0.07, 0.03])
    p = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)).astype(np.float32)
    task = make_task(3)
    post = fit_post(task, Objective(metric="BalancedAccuracy"), p[:3_000], y[:3_000], None, None, seed=0)

    tuned = task.score("BalancedAccuracy", y[3_000:], p[3_000:], None, post.decided(p[3_000:]))

    assert tuned > task.score("BalancedAccuracy", y[3_000:], p[3_000:], None) + 0.05


def test_intervals_cover_as_asked():
    """Over eight splits of a real set with a real model, 80 % and 90 % are met within two points, on average."""
    bunch = load_diabetes()
    oof = cross_val_predict(
        RandomForestRegressor(40, min_samples_leaf=5, random_state=0), bunch.data, bunch.target, cv=5
    )[:, None]
    task = make_task(0)
    for coverage in ("0.8", "0.9"):
        found = []
        for seed in range(40):
            fitted = np.random.default_rng(seed).permutation(len(oof)) % 2 == 0
            objective = Objective(intervals=Intervals(coverage=coverage))
            post = fit_post(task, objective, oof[fitted], bunch.target[fitted], None, None, seed=seed)
            low, high = post.interval(oof[~fitted])  # type: ignore[misc]
            found.append(np.mean((bunch.target[~fitted] >= low) & (bunch.target[~fitted] <= high)))

        assert np.mean(found) == pytest.approx(float(coverage), abs=0.02)


def test_intervals_are_wide_where_errors_are_large():
    """Both halves of the range are covered alike although one is ten times noisier."""
    rng = np.random.default_rng(11)
    mean = rng.uniform(0, 10, 8_000)
    y = mean + rng.normal(size=8_000) * np.where(mean > 5, 5.0, 0.5)
    objective = Objective(intervals=Intervals(coverage="0.9"))
    post = fit_post(make_task(0), objective, mean[:4_000, None], y[:4_000], None, None, seed=0)

    low, high = post.interval(mean[4_000:, None])  # type: ignore[misc]

    inside, noisy = (y[4_000:] >= low) & (y[4_000:] <= high), mean[4_000:] > 5
    assert inside[noisy].mean() == pytest.approx(0.9, abs=0.03)
    assert inside[~noisy].mean() == pytest.approx(0.9, abs=0.03)


def test_quantiles_are_widened_until_they_cover():
    rng = np.random.default_rng(12)
    mean = rng.uniform(0, 10, 4_000)
    y = mean + rng.normal(size=4_000)
    narrow = np.stack([mean - 0.5, mean, mean + 0.5], axis=1)
    objective = Objective(intervals=Intervals(coverage="0.9"))
    post = fit_post(make_task(0, quantiles=(0.1, 0.5, 0.9)), objective, narrow[:2_000], y[:2_000], None, None, seed=0)

    low, high = post.interval(narrow[2_000:])  # type: ignore[misc]

    assert np.mean((y[2_000:] >= low) & (y[2_000:] <= high)) == pytest.approx(0.9, abs=0.02)


def test_sets_of_classes_cover_each_class_as_asked():
    bunch = load_digits()
    oof = cross_val_predict(GaussianNB(var_smoothing=1e-2), bunch.data, bunch.target, cv=5, method="predict_proba")
    task, found = make_task(10), []
    objective = Objective(intervals=Intervals(coverage="0.9"))
    for seed in range(10):
        fitted = np.random.default_rng(seed).permutation(len(oof)) % 2 == 0
        post = fit_post(task, objective, oof[fitted], bunch.target[fitted], None, None, seed=seed)
        sets = post.interval(oof[~fitted])
        assert isinstance(sets, np.ndarray)
        found.append(np.mean(sets[np.arange(len(sets)), bunch.target[~fitted]]))

    assert np.mean(found) == pytest.approx(0.9, abs=0.02)


def test_a_post_is_the_same_after_json():
    post = Post(
        Calibration(0.7, (0.1, 0.0), (0.1, 0.9), (0.2, 0.8)),
        Decision((0.2, 0.8), ((0.0, 1.0), (5.0, 0.0))),
        Conformal(0.9, least=(0.3, 0.2)),
    )

    assert Post.from_json(json.loads(json.dumps(post.to_json()))) == post
    assert IDENTITY.to_json() == {}
    assert Post.from_json({}) == IDENTITY


@pytest.mark.parametrize(
    "body",
    [
        {"colour": 1},
        {"decision": {"threshold": 0.5}},
        {"calibration": {"slope": "steep"}},
        {"conformal": {}},
        {"decision": 3},
    ],
)
def test_a_strange_post_is_refused(body: dict[str, object]):
    with pytest.raises(ValueError):
        Post.from_json(body)


def test_too_few_or_one_sided_rows_change_nothing():
    """Ten rows, rows of one class, no rows that are predicted: probabilities stay."""
    p, y = binary_scores(10, seed=13)
    task = make_task(2)

    assert fit_post(task, Objective(), p, y, None, None, seed=0) == IDENTITY
    assert (
        fit_post(task, Objective(), np.tile(p, (20, 1)), np.zeros(200, dtype=np.int64), None, None, seed=0) == IDENTITY
    )
    assert fit_post(task, Objective(), np.full_like(p, np.nan), y, None, None, seed=0) == IDENTITY
