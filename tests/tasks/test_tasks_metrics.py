"""Metrics: the same names as the contract's table, the same values as scikit-learn's, and values worked out by hand."""

import pickle

import numpy as np
import pytest
from sklearn import metrics as sk

from kubeautoml.api.errors import DataError
from kubeautoml.api.metrics import METRICS, TaskType, metrics_of
from kubeautoml.api.objective import DecisionCost
from kubeautoml_trainer.data.base import Schema
from kubeautoml_trainer.tasks import task_for

CLS, REG = TaskType.TABULAR_CLASSIFICATION, TaskType.TABULAR_REGRESSION


def make_task(classes: tuple[str, ...] = (), positive: str | None = None):
    schema = Schema("t", (), classes, positive)
    return task_for(CLS if classes else REG, schema)


def make_classified(k: int, n: int = 300, seed: int = 0, weighted: bool = True):
    """y, probabilities with ties, weights."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    p = rng.dirichlet(np.ones(k), n) + 0.4 * np.eye(k)[y]
    p = np.round(p / p.sum(axis=1, keepdims=True), 2) + 1e-3
    return y, p / p.sum(axis=1, keepdims=True), rng.uniform(0.2, 3, n) if weighted else None


@pytest.mark.parametrize("task", [make_task(("a", "b")), make_task(("a", "b", "c")), make_task()])
def test_a_task_has_every_metric_of_the_contract(task):
    """Names are those of kubeautoml.api.metrics for the task, without those that need costs or quantiles."""
    assert set(task.metrics) == set(metrics_of(task.type)) - {"ExpectedCost", "PinballLoss"}


@pytest.mark.parametrize("task", [make_task(("a", "b")), make_task(("a", "b", "c")), make_task()])
def test_a_task_that_has_scored_goes_to_another_process(task):
    """Networks are trained by several: what it has worked out stays behind, and is worked out there again."""
    assert set(task.metrics)

    copied = pickle.loads(pickle.dumps(task))

    assert copied == task and set(copied.metrics) == set(task.metrics)


def test_costs_and_quantiles_bring_their_metrics():
    """With them the names are exactly the contract's; those of decisions are marked there."""
    costly = task_for(CLS, Schema("t", (), ("a", "b")), costs=[DecisionCost(actual="a", predicted="b", cost="2")])
    quantiles = task_for(REG, Schema("t", (), quantiles=(0.1, 0.9)))

    assert set(costly.metrics) == set(metrics_of(CLS))
    assert set(quantiles.metrics) == set(metrics_of(REG))
    assert set(costly.of_table) == {n for n in metrics_of(CLS) if METRICS[n].is_decision}


def test_expected_cost_is_the_mean_cost_of_the_cheapest_decisions():
    """At 10 for a missed 'b' and 1 for a false one, 'b' is decided from 1/11 on; a right decision costs nothing."""
    costs = [DecisionCost(actual="b", predicted="a", cost="10")]
    task = task_for(CLS, Schema("t", (), ("a", "b")), costs=costs)
    p = np.array([[0.95, 0.05], [0.85, 0.15], [0.95, 0.05], [0.2, 0.8]])

    assert task.score("ExpectedCost", np.array([0, 0, 1, 1]), p, None) == pytest.approx((0 + 1 + 10 + 0) / 4)


def test_costs_must_name_classes_of_the_data():
    costs = [DecisionCost(actual="a", predicted="maybe", cost="1")]

    with pytest.raises(
        DataError, match=r"spec\.objective\.costs\[0\]\.predicted must be a class of 't' in the data: a, b; got 'maybe'"
    ):
        task_for(CLS, Schema("t", (), ("a", "b")), costs=costs)


@pytest.mark.parametrize("least", [0.3, 0.6, 0.9, 1.0])
def test_recall_at_precision_is_the_best_point_of_scikit_learns_curve(least):
    y, p, w = make_classified(2)
    task = task_for(CLS, Schema("t", (), ("a", "b")), min_precision=least)
    precision, recall, _ = sk.precision_recall_curve(y == 1, p[:, 1], sample_weight=w)

    got = task.score("RecallAtPrecision", y, p, w)

    assert got == pytest.approx(recall[precision >= least - 1e-12].max())


def test_pinball_loss_equals_scikit_learns_mean():
    rng = np.random.default_rng(0)
    y, p, w = rng.normal(size=200), np.sort(rng.normal(size=(200, 3)), axis=1), rng.uniform(0.2, 3, 200)
    quantiles = (0.1, 0.5, 0.9)
    task = task_for(REG, Schema("t", (), quantiles=quantiles))

    expected = np.mean([sk.mean_pinball_loss(y, p[:, k], sample_weight=w, alpha=q) for k, q in enumerate(quantiles)])

    assert task.score("PinballLoss", y, p, w) == pytest.approx(expected)
    assert task.prior(y, None) == pytest.approx(np.quantile(y, quantiles, method="inverted_cdf"))


def test_one_positive_row_in_ten_thousand_leaves_metrics_defined():
    y = np.zeros(10_000, dtype=np.int64)
    y[17] = 1
    p = np.stack([np.full(10_000, 0.9999), np.full(10_000, 0.0001)], axis=1)
    task = make_task(("no", "yes"))

    assert all(np.isfinite(task.score(name, y, p, None)) for name in task.metrics)


def test_a_frame_of_quantiles_has_a_column_each_beside_the_middle_one():
    task = task_for(REG, Schema("price", (), quantiles=(0.1, 0.5, 0.9)))

    frame = task.output_frame(np.array([[1, 2, 3]], dtype=np.float32))

    assert frame.to_dict("records") == [{"price": 2.0, "price_q0.1": 1.0, "price_q0.5": 2.0, "price_q0.9": 3.0}]


def _recall_at_precision(hit, score, weight):
    """By scikit-learn's curve, at the default precision of 0.9."""
    precision, recall, _ = sk.precision_recall_curve(hit, score, sample_weight=weight)
    return recall[precision >= 0.9 - 1e-12].max()


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("positive", ["no", "yes", None])
def test_binary_metrics_equal_scikit_learns(weighted, positive):
    """Binary metrics are about the positive class, the last one unless the schema names another."""
    task = make_task(("no", "yes"), positive)
    y, p, w = make_classified(2, weighted=weighted)
    k = 0 if positive == "no" else 1
    hit, decided = y == k, np.argmax(p, axis=1)
    binary = {"pos_label": k, "sample_weight": w}

    got = {name: task.score(name, y, p, w) for name in task.metrics}

    assert got == pytest.approx(
        {
            "RocAuc": sk.roc_auc_score(hit, p[:, k], sample_weight=w),
            "AveragePrecision": sk.average_precision_score(hit, p[:, k], sample_weight=w),
            "RecallAtPrecision": _recall_at_precision(hit, p[:, k], w),
            "LogLoss": sk.log_loss(y, p, sample_weight=w),
            "Brier": sk.brier_score_loss(hit, p[:, k], sample_weight=w),
            "Accuracy": sk.accuracy_score(y, decided, sample_weight=w),
            "BalancedAccuracy": sk.balanced_accuracy_score(y, decided, sample_weight=w),
            "F1": sk.f1_score(y, decided, **binary),
            "F1Macro": sk.f1_score(y, decided, average="macro", sample_weight=w),
            "Precision": sk.precision_score(y, decided, **binary),
            "Recall": sk.recall_score(y, decided, **binary),
            "MatthewsCorrelation": sk.matthews_corrcoef(y, decided, sample_weight=w),
        },
        rel=1e-9,
    )


@pytest.mark.parametrize("weighted", [True, False])
def test_multi_class_metrics_equal_scikit_learns(weighted):
    """Ranking is one against the rest, averaged over classes; precision, recall and F1 are weighted by support."""
    task = make_task(("a", "b", "c"))
    y, p, w = make_classified(3, weighted=weighted)
    decided = np.argmax(p, axis=1)
    supported = {"average": "weighted", "sample_weight": w}

    got = {name: task.score(name, y, p, w) for name in task.metrics}

    assert got == pytest.approx(
        {
            "RocAuc": sk.roc_auc_score(y, p, multi_class="ovr", average="macro", sample_weight=w),
            "AveragePrecision": sk.average_precision_score(np.eye(3)[y], p, average="macro", sample_weight=w),
            "RecallAtPrecision": np.mean([_recall_at_precision(y == k, p[:, k], w) for k in range(3)]),
            "LogLoss": sk.log_loss(y, p, sample_weight=w),
            "Brier": np.average(np.sum((p - np.eye(3)[y]) ** 2, axis=1), weights=w),
            "Accuracy": sk.accuracy_score(y, decided, sample_weight=w),
            "BalancedAccuracy": sk.balanced_accuracy_score(y, decided, sample_weight=w),
            "F1": sk.f1_score(y, decided, **supported),
            "F1Macro": sk.f1_score(y, decided, average="macro", sample_weight=w),
            "Precision": sk.precision_score(y, decided, **supported),
            "Recall": sk.recall_score(y, decided, **supported),
            "MatthewsCorrelation": sk.matthews_corrcoef(y, decided, sample_weight=w),
        },
        rel=1e-9,
    )


@pytest.mark.parametrize("weighted", [True, False])
def test_regression_metrics_equal_scikit_learns(weighted):
    """Every metric of numbers, weighted or not."""
    rng = np.random.default_rng(0)
    y = rng.lognormal(size=200)
    p = y * rng.lognormal(sigma=0.3, size=200)
    w = rng.uniform(0.2, 3, 200) if weighted else None
    task = make_task()

    got = {name: task.score(name, y, p[:, None], w) for name in task.metrics}

    assert got == pytest.approx(
        {
            "Rmse": sk.root_mean_squared_error(y, p, sample_weight=w),
            "Mse": sk.mean_squared_error(y, p, sample_weight=w),
            "Mae": sk.mean_absolute_error(y, p, sample_weight=w),
            "MedianAbsoluteError": sk.median_absolute_error(y, p, sample_weight=w),
            "R2": sk.r2_score(y, p, sample_weight=w),
            "Mape": sk.mean_absolute_percentage_error(y, p, sample_weight=w),
            "Rmsle": sk.root_mean_squared_log_error(y, p, sample_weight=w),
        },
        rel=1e-6,
    )


def test_metrics_of_four_rows_worked_out_by_hand():
    """Two of three hits are found, one of two decisions for "yes" is wrong."""
    task = make_task(("no", "yes"))
    y = np.array([0, 1, 1, 1])
    p_yes = np.array([0.6, 0.9, 0.6, 0.2])
    p = np.stack([1 - p_yes, p_yes], axis=1)

    got = {name: round(task.score(name, y, p, None), 4) for name in ("RocAuc", "Accuracy", "F1", "Precision", "Recall")}

    assert got == {"RocAuc": 0.5, "Accuracy": 0.5, "F1": 0.6667, "Precision": 0.6667, "Recall": 0.6667}


def test_a_metric_is_nan_where_it_is_not_defined():
    """One class has no ranking, a constant target no explained variance, no rows no score at all."""
    p = np.array([[0.4, 0.6], [0.7, 0.3]])
    one_class, numbers = make_task(("a", "b")), make_task()

    undefined = {
        name: one_class.score(name, np.zeros(2, dtype=np.int64), p, None)
        for name in ("RocAuc", "AveragePrecision", "Recall", "F1", "MatthewsCorrelation")
    }
    undefined["R2"] = numbers.score("R2", np.ones(2), p[:, :1], None)
    undefined["Rmsle"] = numbers.score("Rmsle", np.array([-1.0, 2.0]), p[:, :1], None)
    undefined["Mape"] = numbers.score("Mape", np.zeros(2), p[:, :1], None)
    undefined["Rmse of no rows"] = numbers.score("Rmse", np.zeros(0), np.zeros((0, 1)), None)

    assert {name: np.isnan(value) for name, value in undefined.items()} == dict.fromkeys(undefined, True)


def test_multi_class_ranking_is_averaged_over_the_classes_present():
    """A class without a row in the sample does not make the score undefined."""
    task = make_task(("a", "b", "c"))
    y, p, _ = make_classified(2)
    p = np.hstack([p * 0.9, np.full((len(p), 1), 0.1)])

    each = [sk.roc_auc_score(y == k, p[:, k]) for k in (0, 1)]
    assert task.score("RocAuc", y, p, None) == pytest.approx(np.mean(each))


def test_a_certain_mistake_costs_much_but_not_infinitely_much():
    """Log loss is clipped at float32's epsilon."""
    task = make_task(("a", "b"))

    loss = task.score("LogLoss", np.array([1]), np.array([[1.0, 0.0]], dtype=np.float32), None)

    assert 15 < loss < 17


def test_predictions_are_told_in_the_targets_own_words():
    """A column named like the target, and one a class with its probability."""
    task = make_task(("no", "yes"))

    frame = task.output_frame(np.array([[0.25, 0.75]], dtype=np.float32))

    assert frame.to_dict("records") == [{"t": "yes", "t_no": 0.25, "t_yes": 0.75}]


def test_the_prior_is_the_best_constant():
    """Weighted class shares; the weighted mean."""
    weight = np.array([3.0, 1.0])

    shares = make_task(("a", "b")).prior(np.array([0, 1]), weight)
    mean = make_task().prior(np.array([0.0, 4.0]), weight)

    assert shares.tolist() == [0.75, 0.25] and shares.dtype == np.float32
    assert mean.tolist() == [1.0] and mean.dtype == np.float32
