"""Thinning: members that are not missed go, those that are stay, and what is left keeps its proportions."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Column, Schema
from kubeautoml_trainer.ensemble import Candidate, select
from kubeautoml_trainer.ensemble.greedy import without_the_hardly_missed
from kubeautoml_trainer.ensemble.thinning import thinned
from kubeautoml_trainer.tasks import task_for

COLUMN = Column("x", ColumnType.NUMBER)
BINARY = task_for(TaskType.TABULAR_CLASSIFICATION, Schema("t", (COLUMN,), ("no", "yes"), "yes"))
NUMBER = task_for(TaskType.TABULAR_REGRESSION, Schema("t", (COLUMN,)))


def make_parts(rows: int = 400) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """y, and predictions: two with noise of their own that cancels, and one that says nearly what the first does."""
    rng = np.random.default_rng(0)
    y = rng.normal(10, 3, rows)
    first, second = (y + rng.normal(0, 1, rows) for _ in range(2))
    echo = first + rng.normal(0, 0.05, rows)
    return y, {k: v[:, None] for k, v in {"first": first, "second": second, "echo": echo}.items()}


def rmse(y: np.ndarray):
    return lambda p: float(np.sqrt(np.mean((p[:, 0] - y) ** 2)))


def test_a_member_that_repeats_another_goes_and_the_rest_keeps_its_proportions():
    """A tenth of the weight on what the first member says already is worth nothing."""
    y, parts = make_parts()

    kept = thinned({"first": 0.45, "second": 0.45, "echo": 0.1}, parts, [rmse(y)])

    assert kept == pytest.approx({"first": 0.5, "second": 0.5})


def test_members_that_are_missed_stay():
    """Without either of two the error grows by forty per cent."""
    y, parts = make_parts()
    both = {"first": 0.5, "second": 0.5}

    assert thinned(both, parts, [rmse(y)]) == both


def test_several_may_go_but_not_more_than_all_together_may_cost():
    """Each of twenty small members is hardly missed; all of them are."""
    rng = np.random.default_rng(1)
    y = rng.normal(10, 3, 400)
    parts = {k: (y + rng.normal(0, 1, 400))[:, None] for k in range(21)}
    shares = {0: 0.6} | dict.fromkeys(range(1, 21), 0.02)
    whole = rmse(y)(sum(s * parts[k] for k, s in shares.items()))

    kept = thinned(shares, parts, [rmse(y)])
    value = rmse(y)(sum(s * parts[k] for k, s in kept.items()))

    assert 1 < len(kept) < 21
    assert value <= whole * 1.002
    assert sum(kept.values()) == pytest.approx(1)


def test_no_loss_may_grow():
    """A metric of ranks may not see what honest probabilities lose."""
    y, parts = make_parts()
    shares = {"first": 0.5, "second": 0.5}

    assert thinned({"first": 0.3, "second": 0.6, "echo": 0.1}, parts, [lambda p: 0.1]) == {"second": 1.0}
    assert len(thinned(shares, parts, [lambda p: 0.1, rmse(y)])) == 2


def test_many_rows_are_believed_sooner():
    """What is noise on a thousand rows is not on a hundred thousand."""
    few, many = (np.zeros((rows, 1)) for rows in (1_000, 100_000))
    loss = {0.5: 1.0, 1.0: 1.001}  # the mean of both members, and one alone

    def of(p: np.ndarray) -> float:
        return loss[float(p[0, 0])]

    for rows, left in ((few, 1), (many, 2)):
        assert (
            len(thinned({"a": 0.5, "b": 0.5}, {"a": rows, "b": rows + 1}, [lambda p: of(np.maximum(p, 1 - p))])) == left
        )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_cannot_be_computed_keeps_the_member(value: float):
    """Such as the logarithm of a negative prediction."""
    y, parts = make_parts()

    def loss(p: np.ndarray) -> float:
        is_whole = bool(np.allclose(p, 0.5 * parts["first"] + 0.5 * parts["second"]))
        return rmse(y)(p) if is_whole else value

    assert len(thinned({"first": 0.5, "second": 0.5}, parts, [loss])) == 2


def test_a_perfect_ensemble_keeps_what_makes_it_perfect():
    """From a loss of 0 nothing may grow."""
    y = np.arange(10.0)
    parts = {"low": y[:, None] - 1, "high": y[:, None] + 1, "exact": y[:, None]}

    assert set(thinned({"low": 0.5, "high": 0.5}, parts, [rmse(y)])) == {"low", "high"}
    assert set(thinned({"low": 0.4, "high": 0.4, "exact": 0.2}, parts, [rmse(y)])) == {"low", "high"}


def test_nothing_is_looked_at_after_the_deadline():
    y, parts = make_parts()
    shares = {"first": 0.45, "second": 0.45, "echo": 0.1}

    assert thinned(shares, parts, [rmse(y)], deadline=time.monotonic() - 1) == shares


@pytest.mark.parametrize(
    ("seconds", "missed", "stays"),
    [
        ({"good": 1.0, "dear": 3.5}, 0.0025, False),
        ({"good": 1.0, "dear": 3.5}, 0.0035, True),  # two thousandths for every ensemble, and one for the time
        ({"good": 1.0, "dear": 2.5}, 0.0025, True),  # five sevenths of the time
        ({"good": 3.5, "dear": 1.0}, 0.0025, True),
        ({"good": 0.0, "dear": 0.0}, 0.0025, True),
        (None, 0.0025, True),
    ],
)
def test_a_member_that_takes_most_of_the_time_may_be_missed_a_little_more(seconds, missed, stays):
    parts = {"good": np.ones((400, 1)), "dear": np.zeros((400, 1))}

    def loss(p: np.ndarray) -> float:
        return {1.0: 1 + missed, 0.0: 9.0}.get(float(p[0, 0]), 1.0)

    kept = thinned({"good": 0.95, "dear": 0.05}, parts, [loss], seconds=seconds)

    assert set(kept) == ({"good", "dear"} if stays else {"good"})


def test_what_the_time_is_worth_does_not_let_others_go_too():
    """The dear one costs nothing and leaves; of the next two, each would cost more than all may together."""
    parts = {k: np.eye(4)[[n]].repeat(400, axis=0) for n, k in enumerate(("good", "dear", "other"))}
    costs = {"good": 5.0, "dear": 0.0, "other": 0.0025}

    def loss(p: np.ndarray) -> float:
        return 1.0 + sum(cost for n, cost in enumerate(costs.values()) if p[0, n] == 0)

    kept = thinned(dict.fromkeys(parts, 1 / 3), parts, [loss], seconds={"good": 1.0, "dear": 97.0, "other": 1.0})

    assert set(kept) == {"good", "other"}


def test_a_selection_holds_no_member_that_is_not_missed():
    """Whatever greedy picks took: without any one of them the objective or the log loss is clearly worse."""
    rng = np.random.default_rng(2)
    y = rng.integers(0, 2, 600)
    shared = rng.normal(0, 1, 600)
    candidates = []
    for k in range(12):
        logits = 2 * y - 1 + shared + rng.normal(0, 0.4 + 0.05 * k, 600)
        p = 1 / (1 + np.exp(-logits))
        oof = np.stack([1 - p, p], axis=1).astype(np.float32)
        candidates.append(Candidate(k, "ABC"[k % 3], BINARY.score("RocAuc", y, oof, None), oof))

    found = select(candidates, BINARY, "RocAuc", y, None, seed=0, fold=np.arange(600) % 8)
    thin = without_the_hardly_missed(found, candidates, BINARY, "RocAuc", y, None, seed=0)
    weights = thin.weights

    def losses(shares: dict[int, float]) -> np.ndarray:
        p = sum(s * candidates[k].oof.astype(np.float64) for k, s in shares.items()) / sum(shares.values())
        return np.array([1 - BINARY.score("RocAuc", y, p, None), BINARY.score("LogLoss", y, p, None)])

    assert 1 < len(weights) < len(found.weights)
    assert thin.value == pytest.approx(1 - losses(weights)[0], rel=1e-6)
    assert thin.best_single == found.best_single
    for k in weights:
        rest = {j: s for j, s in weights.items() if j != k}
        assert (losses(rest) / losses(weights) - 1).max() > 0.0005
