"""Greedy selection: better than its parts, never worse than the best of them, honest about ties, gaps and cost."""

from __future__ import annotations

import time

import numpy as np
import pytest

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.metrics import TaskType, is_better
from kubeautoml_trainer.data.base import Column, Schema
from kubeautoml_trainer.ensemble import Candidate, Cost, choose_candidates, select
from kubeautoml_trainer.ensemble.decisions import out_of_fold_score
from kubeautoml_trainer.ensemble.scoring import AnyMetric, scorer_for
from kubeautoml_trainer.tasks import task_for

COLUMN = Column("x", ColumnType.NUMBER)
BINARY = task_for(TaskType.TABULAR_CLASSIFICATION, Schema("t", (COLUMN,), ("no", "yes"), "yes"))
THREE = task_for(TaskType.TABULAR_CLASSIFICATION, Schema("t", (COLUMN,), ("a", "b", "c")))
NUMBER = task_for(TaskType.TABULAR_REGRESSION, Schema("t", (COLUMN,)))


def make_problem(task, *, rows=400, candidates=8, seed=0, noise=1.0):
    """y, and candidates that see it through independent noise, the later the worse."""
    rng = np.random.default_rng(seed)
    if task.outputs == 1:
        y = np.abs(rng.normal(10, 3, rows))
        oofs = [(y + rng.normal(0, noise + 0.1 * k, rows))[:, None] for k in range(candidates)]
    else:
        y = rng.integers(0, task.outputs, rows)
        oofs = []
        for k in range(candidates):
            logits = np.eye(task.outputs)[y] + rng.normal(0, noise + 0.1 * k, (rows, task.outputs))
            p = np.exp(logits)
            oofs.append(p / p.sum(axis=1, keepdims=True))
    return y, oofs


def make_candidates(task, metric, y, oofs, costs=None, weight=None):
    return [
        Candidate(
            trial=k,
            family="ABC"[k % 3],
            value=task.score(metric, y, oof, weight),
            oof=oof.astype(np.float32),
            cost=costs[k] if costs else Cost(),
        )
        for k, oof in enumerate(oofs)
    ]


def score_of(task, metric, y, candidates, weights, weight=None):
    mean = sum(w * candidates[t].oof.astype(np.float64) for t, w in weights.items())
    return out_of_fold_score(task, metric, y, mean, weight)


ALL = [(task, metric) for task in (BINARY, THREE, NUMBER) for metric in task.metrics]


@pytest.mark.parametrize(("task", "metric"), ALL, ids=lambda v: v if isinstance(v, str) else f"{v.outputs}-outputs")
@pytest.mark.parametrize("weighted", [False, True])
def test_an_ensemble_is_never_worse_out_of_fold_than_its_best_single_candidate(task, metric, weighted):
    """For every metric, and the reported value is the task's own score of the weighted mean, decided as is best for it."""
    y, oofs = make_problem(task)
    weight = np.random.default_rng(1).uniform(0.2, 3, len(y)) if weighted else None
    candidates = make_candidates(task, metric, y, oofs, weight=weight)

    found = select(candidates, task, metric, y, weight, seed=0)

    assert not is_better(metric, found.best_single, found.value)
    assert found.value == pytest.approx(score_of(task, metric, y, candidates, found.weights, weight), rel=1e-6)
    assert sum(found.weights.values()) == pytest.approx(1)
    assert list(found.weights.values()) == sorted(found.weights.values(), reverse=True)


@pytest.mark.parametrize("task", [BINARY, NUMBER])
def test_unlike_errors_cancel(task):
    """Of independently wrong candidates several are taken, and the mean is clearly better than each."""
    metric = "RocAuc" if task is BINARY else "Rmse"
    y, oofs = make_problem(task)

    found = select(make_candidates(task, metric, y, oofs), task, metric, y, None, seed=0)

    assert len(found.weights) >= 4
    gain = found.value - found.best_single if metric == "RocAuc" else found.best_single - found.value
    assert gain > 0.03


@pytest.mark.parametrize(("task", "metric"), [(BINARY, "RocAuc"), (BINARY, "LogLoss"), (THREE, "LogLoss")])
@pytest.mark.parametrize("ties", [False, True])
def test_fast_scores_equal_the_metric(task, metric, ties):
    """Fast forms give what the task's metric gives, ties and repeated picks included."""
    y, oofs = make_problem(task)
    stack = np.stack(oofs)
    if ties:
        stack = np.minimum(np.round(stack * 8) / 8, 1)  # eighths: their sums have no rounding errors
        stack[:, :, 0] = 1 - stack[:, :, 1:].sum(axis=2)
    stack = stack.astype(np.float32)
    fast, plain = scorer_for(task, metric, stack, y, None), AnyMetric(task, metric, stack, y, None)
    positions = np.arange(len(stack))
    assert not isinstance(fast, AnyMetric)

    for picks in ([0] * 8, [1, 0, 0, 2, 0, 0, 0, 0], [3, 1, 0, 2, 0, 0, 0, 5]):
        assert fast.scores(np.array(picks), positions) == pytest.approx(
            plain.scores(np.array(picks), positions), abs=2e-6
        )


@pytest.mark.parametrize("metric", ["Rmse", "Mse", "R2"])
@pytest.mark.parametrize("weighted", [False, True])
def test_fast_squared_errors_equal_the_metric(metric, weighted):
    """Also with weights, and with a target far from zero."""
    y, oofs = make_problem(NUMBER)
    stack, y = np.stack(oofs) + 1000, y + 1000
    weight = np.random.default_rng(1).uniform(0.2, 3, len(y)) if weighted else None
    fast, plain = scorer_for(NUMBER, metric, stack, y, weight), AnyMetric(NUMBER, metric, stack, y, weight)

    for picks in ([0] * 8, [3, 1, 0, 2, 0, 0, 0, 5]):
        got = fast.scores(np.array(picks), np.arange(8))
        assert got == pytest.approx(plain.scores(np.array(picks), np.arange(8)), rel=1e-9)


def test_rows_that_one_candidate_misses_are_left_out_for_all():
    """Values are compared on the same rows only."""
    y, oofs = make_problem(NUMBER)
    oofs[2][:20] = np.nan
    oofs[0][:20] = 1e6  # terrible, but only where nobody may look

    found = select(make_candidates(NUMBER, "Rmse", y, oofs), NUMBER, "Rmse", y, None, seed=0)

    assert found.rows == 380
    assert 0 in found.weights
    assert found.value < 2


def test_a_candidate_with_few_predictions_does_not_cost_the_others_their_rows():
    """It is set aside instead."""
    y, oofs = make_problem(NUMBER)
    oofs[0][:200] = np.nan

    found = select(make_candidates(NUMBER, "Rmse", y, oofs), NUMBER, "Rmse", y, None, seed=0)

    assert found.rows == 400
    assert 0 not in found.weights


def test_rows_never_validated_are_left_out():
    """Time splits have rows that are only ever trained on."""
    y, oofs = make_problem(NUMBER)
    for oof in oofs:
        oof[:100] = np.nan

    assert select(make_candidates(NUMBER, "Rmse", y, oofs), NUMBER, "Rmse", y, None, seed=0).rows == 300


def test_ties_go_to_a_member_that_is_in_already_then_to_the_earlier_candidate():
    """Equal predictions bring no second member."""
    y, oofs = make_problem(NUMBER, candidates=1)

    found = select(make_candidates(NUMBER, "Rmse", y, [oofs[0]] * 5), NUMBER, "Rmse", y, None, seed=0)

    assert found.weights == {0: 1.0}


def test_ties_of_decisions_are_broken_by_log_loss():
    """Two candidates with the same decisions: the more honest probabilities win."""
    y = np.array([0, 1] * 50)
    sure, timid = np.eye(2)[y] * 0.8 + 0.1, np.eye(2)[y] * 0.02 + 0.49

    found = select(make_candidates(BINARY, "Accuracy", y, [timid, sure]), BINARY, "Accuracy", y, None, seed=0)

    assert found.weights == {1: 1.0}


def test_members_together_keep_the_limit():
    """A dear candidate is left out, cheap ones share what is allowed."""
    y, oofs = make_problem(NUMBER)
    costs = [Cost(20, 1), *[Cost(4, 1)] * 7]

    found = select(
        make_candidates(NUMBER, "Rmse", y, oofs, costs), NUMBER, "Rmse", y, None, seed=0, limit=Cost(10, 100)
    )

    assert 0 not in found.weights
    assert len(found.weights) == 2


def test_no_selection_when_nothing_fits_the_limit():
    """The caller says which value came nearest."""
    y, oofs = make_problem(NUMBER)
    candidates = make_candidates(NUMBER, "Rmse", y, oofs, [Cost(20, 1)] * 8)

    assert select(candidates, NUMBER, "Rmse", y, None, seed=0, limit=Cost(10, 100)) is None


def test_a_deadline_that_has_passed_still_gives_the_best_single_candidate():
    """Any-time: one pick is always made."""
    y, oofs = make_problem(NUMBER)

    found = select(make_candidates(NUMBER, "Rmse", y, oofs), NUMBER, "Rmse", y, None, seed=0, deadline=0.0)

    assert found.weights == {0: 1.0}


def test_the_same_input_gives_the_same_weights():
    """Also when rows are sampled."""
    y, oofs = make_problem(BINARY, rows=3000)
    candidates = make_candidates(BINARY, "RocAuc", y, oofs)

    assert select(candidates, BINARY, "RocAuc", y, None, seed=3) == select(
        candidates, BINARY, "RocAuc", y, None, seed=3
    )


def test_fifty_candidates_on_fifty_thousand_rows_take_seconds():
    """The slowest of the common metrics, ROC AUC; and what was chosen on a sample holds on all rows."""
    y, oofs = make_problem(BINARY, rows=50_000, candidates=50, noise=3.0)
    candidates = make_candidates(BINARY, "LogLoss", y, oofs)
    started = time.process_time()

    found = select(candidates, BINARY, "RocAuc", y, None, seed=0)

    assert time.process_time() - started < 30  # about 3; loose, because machines differ
    assert found.rows == 50_000
    assert found.value > found.best_single


def make_trials(*values_by_family):
    out = []
    for family, values in values_by_family:
        for value in values:
            out.append(Candidate(len(out), family, value, np.zeros((1, 1))))
    return out


def test_candidates_are_the_top_and_the_best_of_each_family():
    """25 by value and 3 of each family, best first."""
    trials = make_trials(("A", [0.9 - i / 1000 for i in range(40)]), ("B", [0.1, 0.2, 0.3, 0.4]))

    chosen = choose_candidates(trials, "RocAuc", rows=50_000)

    assert [t.trial for t in chosen] == [*range(25), 43, 42, 41]


def test_few_rows_admit_few_candidates_but_each_family_keeps_its_best():
    """The cap by rows."""
    trials = make_trials(("A", [0.9 - i / 1000 for i in range(40)]), ("B", [0.1, 0.2]), ("C", [0.5]))

    chosen = choose_candidates(trials, "RocAuc", rows=90)

    assert [(t.family, t.value) for t in chosen] == [("A", 0.9), ("A", 0.899), ("C", 0.5), ("B", 0.2)]


def test_candidates_of_an_error_are_ranked_upwards():
    """Smaller is better for errors."""
    assert [t.value for t in choose_candidates(make_trials(("A", [3.0, 1.0, 2.0])), "Rmse", rows=90)] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(("task", "metric"), [(NUMBER, "Rmse"), (BINARY, "RocAuc"), (THREE, "F1Macro")])
def test_on_few_rows_no_fold_decides_alone(task, metric):
    """The weights are the mean over selections without one fold each; on many rows one selection does."""
    y, oofs = make_problem(task)
    candidates = make_candidates(task, metric, y, oofs)
    fold = np.arange(len(y)) % 4

    found = select(candidates, task, metric, y, None, seed=0, fold=fold)

    parts = [
        select(
            make_candidates(task, metric, y[fold != k], [o[fold != k] for o in oofs]),
            task, metric, y[fold != k], None, seed=0,
        ).weights
        for k in range(4)
    ]  # fmt: skip
    mean = {t: sum(p.get(t, 0) for p in parts) / 4 for t in range(len(oofs))}
    kept = {t: w for t, w in mean.items() if w >= 0.025}
    assert found.weights == pytest.approx({t: w / sum(kept.values()) for t, w in kept.items()})
    assert sum(found.weights.values()) == pytest.approx(1)
    y, oofs = make_problem(task, rows=2600)
    many = make_candidates(task, metric, y, oofs)
    fold = np.arange(len(y)) % 4
    one = select(many, task, metric, y, None, seed=0)
    assert select(many, task, metric, y, None, seed=0, fold=fold).weights == one.weights


def test_a_limit_on_costs_goes_before_the_mean_of_selections():
    """Members of several selections together could cost more than each of them."""
    y, oofs = make_problem(NUMBER)
    candidates = make_candidates(NUMBER, "Rmse", y, oofs, costs=[Cost(1.0, 0.0)] * 8)
    limit = Cost(3.0, 10.0)

    found = select(candidates, NUMBER, "Rmse", y, None, seed=0, limit=limit, fold=np.arange(len(y)) % 4)

    assert len(found.weights) <= 3
    assert found.weights == select(candidates, NUMBER, "Rmse", y, None, seed=0, limit=limit).weights
