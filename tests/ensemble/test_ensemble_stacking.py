"""The second level: it wins where there is something to put right, and is left out where there is nothing but noise."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Column, Rows, Schema
from kubeautoml_trainer.data.row import TypedRow, _Cell
from kubeautoml_trainer.ensemble import Candidate, select, stacking
from kubeautoml_trainer.ensemble.stacking import beyond_noise, choose_inputs, second_level
from kubeautoml_trainer.models.second_level import SecondLevel, load_second_level
from kubeautoml_trainer.tasks import task_for

COLUMNS = (Column("x", ColumnType.NUMBER), Column("kind", ColumnType.CATEGORY, levels=("left", "right")))
BINARY = task_for(TaskType.TABULAR_CLASSIFICATION, Schema("t", COLUMNS, ("no", "yes"), "yes"))
THREE = task_for(TaskType.TABULAR_CLASSIFICATION, Schema("t", COLUMNS, ("a", "b", "c")))
NUMBER = task_for(TaskType.TABULAR_REGRESSION, Schema("t", COLUMNS))
ROWS, FOLDS = 1200, 5


def make_frame(rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows)
    kind = np.where(x < 0, "left", "right").astype(object)
    return pd.DataFrame({"x": x, "kind": pd.Series(kind, dtype=object)})


def truth_of(task, x, rng):
    if task is NUMBER:
        return 3 * x + rng.normal(0, 0.3, len(x))
    if task is BINARY:
        return (rng.random(len(x)) < 1 / (1 + np.exp(-3 * x))).astype(np.int64)
    return np.clip(np.round(x + rng.normal(0, 0.3, len(x))) + 1, 0, 2).astype(np.int64)


def seen_through(task, y, noise, rng):
    """What a model says that sees the truth through this much noise a row; honest probabilities for classes."""
    if task is NUMBER:
        return (y + rng.normal(0, 1, len(y)) * noise)[:, None]
    signal = np.eye(task.outputs)[y] + rng.normal(0, 1, (len(y), task.outputs)) * noise[:, None]
    logits = signal / noise[:, None] ** 2
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def make_candidates(task, metric, y, oofs):
    return [
        Candidate(k, "ABC"[k], task.score(metric, y, oof, None), oof.astype(np.float32)) for k, oof in enumerate(oofs)
    ]


def attempt(task, metric, y, oofs, frame, *, fold=None, groups=None, weight=None, deadline=math.inf):
    """The selection with a second level, or None."""
    candidates = make_candidates(task, metric, y, oofs)
    rows = Rows(frame, y, weight)
    greedy = select(candidates, task, metric, y, weight, seed=0)
    folds = np.arange(len(y)) % FOLDS if fold is None else fold
    found = second_level(
        candidates, greedy, task, metric, rows, folds, task.schema,
        groups=groups, seed=0, threads=1, deadline=deadline,
    )  # fmt: skip
    return greedy, found


def each_good_on_one_side(task, seed=0, rows=ROWS):
    """Two models, one right where x < 0, the other where not: no weights of the whole are right anywhere."""
    rng = np.random.default_rng(seed)
    frame = make_frame(rows, seed)
    x = frame["x"].to_numpy()
    y = truth_of(task, x, rng)
    good, bad = (0.3, 3.0) if task is NUMBER else (0.8, 4.0)
    oofs = [seen_through(task, y, np.where(side, good, bad), rng) for side in (x < 0, x >= 0)]
    return y, oofs, frame


@pytest.mark.parametrize(
    ("task", "metric"),
    [(NUMBER, "Rmse"), (NUMBER, "Mae"), (NUMBER, "R2"), (BINARY, "LogLoss"), (BINARY, "F1"), (THREE, "LogLoss")],
    ids=lambda v: v if isinstance(v, str) else f"{v.outputs}-outputs",
)
def test_where_each_model_is_good_on_its_own_rows_the_second_level_wins(task, metric):
    """And its out-of-fold value, made with nested folds, is that of new rows: those say the same."""
    y, oofs, frame = each_good_on_one_side(task)

    greedy, found = attempt(task, metric, y, oofs, frame)

    assert found is not None
    second = found.second
    assert second.weight + sum(found.weights.values()) == pytest.approx(1)
    assert set(second.inputs) <= set(found.weights)
    better = (lambda a, b: a < b) if metric in ("Rmse", "Mae", "LogLoss") else (lambda a, b: a > b)
    assert better(second.value, greedy.value)
    new_y, new_oofs, new_frame = each_good_on_one_side(task, seed=1)
    first = np.stack([new_oofs[n] for n in second.inputs])
    fresh = task.score(metric, new_y, second.level.predict(first, new_frame), None)
    mean = sum(w * new_oofs[n] for n, w in greedy.weights.items())
    assert better(fresh, task.score(metric, new_y, mean, None))
    assert fresh == pytest.approx(second.value, rel=0.2, abs=0.02)


@pytest.mark.parametrize(
    ("task", "metric"), [(NUMBER, "Rmse"), (NUMBER, "Rmsle"), (BINARY, "LogLoss"), (THREE, "Brier")]
)
def test_models_that_say_too_little_are_made_to_say_more_by_a_few_numbers(task, metric):
    """Half of the distance from the mean, or half of the log-odds: the linear second level sees it."""
    rng = np.random.default_rng(0)
    frame = make_frame()
    y = truth_of(task, frame["x"].to_numpy(), rng)
    y = np.abs(y) + 1 if task is NUMBER else y
    noise = np.full(ROWS, 0.7)
    oofs = [seen_through(task, y, noise, rng) for _ in range(3)]
    if task is NUMBER:
        oofs = [np.maximum(o / 2 + y.mean() / 2, 0.1) for o in oofs]
    else:
        oofs = [np.sqrt(o) / np.sqrt(o).sum(axis=1, keepdims=True) for o in oofs]

    greedy, found = attempt(task, metric, y, oofs, frame)

    assert found is not None
    assert found.second.value < greedy.value


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("task", "metric"), [(NUMBER, "Rmse"), (BINARY, "LogLoss"), (BINARY, "RocAuc")])
def test_where_the_mean_is_all_there_is_it_is_kept(task, metric, seed):
    """Models with equal, independent errors leave nothing to put right."""
    rng = np.random.default_rng(100 + seed)
    frame = make_frame(seed=seed)
    if task is NUMBER:
        y = rng.normal(size=ROWS)
        shrink = 1 / (1 + 1 / 3)  # so that the mean of three noisy looks is the best guess, not just an unbiased one
        oofs = [(y + rng.normal(0, 1, ROWS))[:, None] * shrink for _ in range(3)]
    else:
        p = rng.beta(2, 2, ROWS)
        y = (rng.random(ROWS) < p).astype(np.int64)
        oofs = [np.stack([1 - p, p], axis=1)] * 2

    _, found = attempt(task, metric, y, oofs, frame)

    assert found is None


@pytest.mark.parametrize(("worth", "is_taken"), [(0.0, True), (0.9, False)])
def test_a_second_level_that_gains_too_little_is_not_worth_its_inputs(monkeypatch, worth, is_taken):
    """Where x is below 0 the one model is right, elsewhere the other: nine tenths of the loss are still not gained."""
    y, oofs, frame = each_good_on_one_side(NUMBER)
    monkeypatch.setattr(stacking, "WORTH", worth)

    greedy, found = attempt(NUMBER, "Rmse", y, oofs, frame)

    assert (found is not None) == is_taken
    if is_taken:
        assert found.value > 0.1 * greedy.value


def test_few_rows_few_groups_and_few_folds_are_left_to_the_greedy_ensemble():
    """Even where it would win: below 750 rows, or groups, and without three folds, nobody could know."""
    y, oofs, frame = each_good_on_one_side(NUMBER)
    few = slice(0, 700)

    assert attempt(NUMBER, "Rmse", y[few], [o[few] for o in oofs], frame.iloc[few])[1] is None
    groups = np.repeat(np.arange(ROWS // 4), 4).astype(object)
    assert attempt(NUMBER, "Rmse", y, oofs, frame, groups=groups, fold=groups.astype(int) % FOLDS)[1] is None
    assert attempt(NUMBER, "Rmse", y, oofs, frame, fold=np.arange(ROWS) % 2)[1] is None


def test_with_a_time_split_each_fold_is_predicted_from_earlier_ones():
    """The first fold, which nothing precedes, has no prediction; rows that are only trained on neither."""
    y, oofs, frame = each_good_on_one_side(NUMBER)
    fold = np.repeat([-1, 0, 1, 2, 3], ROWS // 5)
    for oof in oofs:
        oof[fold < 0] = np.nan

    _, found = attempt(NUMBER, "Rmse", y, oofs, frame, fold=fold)

    assert found is not None
    assert np.isnan(found.second.oof[fold <= 0]).all()
    assert np.isfinite(found.second.oof[fold > 0]).all()


def test_a_folds_own_truth_does_not_move_its_nested_predictions():
    """Turning the targets of one fold upside down changes the predictions of the others only."""
    y, oofs, frame = each_good_on_one_side(NUMBER)
    fold = np.arange(ROWS) % FOLDS
    _, before = attempt(NUMBER, "Rmse", y, oofs, frame)
    moved = y.copy()
    moved[(fold == 2) & (np.arange(ROWS) % 3 == 0)] += 0.05

    _, after = attempt(NUMBER, "Rmse", moved, oofs, frame)

    assert np.array_equal(before.second.oof[fold == 2], after.second.oof[fold == 2])
    assert not np.array_equal(before.second.oof[fold != 2], after.second.oof[fold != 2])


def test_when_time_is_over_the_greedy_ensemble_is_what_there_is():
    """A deadline in the past, and one that comes while it is tried."""
    y, oofs, frame = each_good_on_one_side(NUMBER)

    assert attempt(NUMBER, "Rmse", y, oofs, frame, deadline=time.monotonic() - 1)[1] is None
    began = time.monotonic()
    attempt(NUMBER, "Rmse", y, oofs, frame, deadline=began + 0.02)
    assert time.monotonic() - began < 30


def test_weights_of_rows_count():
    """Rows of no weight teach nothing and are not predicted."""
    y, oofs, frame = each_good_on_one_side(NUMBER)
    weight = np.where(np.arange(ROWS) % 4 == 0, 0.0, 4 / 3)

    _, found = attempt(NUMBER, "Rmse", y, oofs, frame, weight=weight)

    assert found is not None
    assert np.isnan(found.second.oof[weight == 0]).all()


@pytest.mark.parametrize("task", [NUMBER, BINARY, THREE])
def test_a_stored_second_level_predicts_what_it_did_and_a_row_alone_as_among_others(task, tmp_path):
    """Trees, categories and all; the typed row of the server included."""
    metric = "Rmse" if task is NUMBER else "LogLoss"
    y, oofs, frame = each_good_on_one_side(task)
    level = attempt(task, metric, y, oofs, frame)[1].second.level
    assert level.kind == "Trees"
    first = np.stack(oofs)

    level.save(tmp_path / "second")
    loaded = load_second_level(tmp_path / "second")

    whole = level.predict(first, frame)
    assert np.array_equal(loaded.predict(first, frame), whole)
    row = TypedRow({"x": _Cell(frame["x"].to_numpy()[3:4]), "kind": _Cell(frame["kind"].to_numpy()[3:4])})
    assert loaded.predict(first[:, 3:4], row) == pytest.approx(whole[3:4], abs=1e-12)
    if task is not NUMBER:
        assert whole.sum(axis=1) == pytest.approx(1)


def test_a_second_level_that_learned_nothing_is_the_mean():
    """Whatever the scale."""
    first = np.array([[[0.2, 0.8]], [[0.6, 0.4]]])

    assert SecondLevel(np.array([0.5, 0.5]), "probabilities").predict(first, pd.DataFrame()) == pytest.approx(
        np.array([[0.4, 0.6]])
    )
    assert SecondLevel(np.array([0.25, 0.75]), "logarithms").predict(first[:, :, :1], pd.DataFrame()) == pytest.approx(
        np.array([[0.5]])
    )


def test_one_lucky_fold_is_noise():
    """The same mean gain is doubt or certainty, by how the folds agree."""
    assert beyond_noise(np.array([0.1, 0.11, 0.09, 0.1, 0.1]))[0]
    assert not beyond_noise(np.array([0.5, 0.0, 0.0, 0.0, 0.0]))[0]
    assert not beyond_noise(np.array([np.nan, 0.1, np.nan, 0.1]))[0]
    assert not beyond_noise(-np.array([0.1, 0.11, 0.09]))[0]


def test_a_learner_that_cannot_finish_is_given_up_after_its_first_fold(monkeypatch):
    """What one fold took says what five, and a fit on all rows, will take."""
    clock, asked = SimpleNamespace(now=0.0), []

    class Slow:
        name = "Slow"

        def path(self, data, split, most):
            asked.append(split)
            clock.now += 5.0
            return [SecondLevel(split.base, data.scale)]

    monkeypatch.setattr(stacking, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(stacking, "Trees", Slow)
    monkeypatch.setattr(stacking, "Linear", Slow)
    y, oofs, frame = each_good_on_one_side(NUMBER)

    assert attempt(NUMBER, "Rmse", y, oofs, frame, deadline=29.0)[1] is None
    assert len(asked) == 2  # once each

    asked.clear()
    clock.now = 0.0
    attempt(NUMBER, "Rmse", y, oofs, frame, deadline=1000.0)
    assert len(asked) == 4  # two folds each say that nothing is learned


@pytest.mark.parametrize(
    ("metric", "values", "chosen"), [("Rmse", (1.0, 1.4, 1.6), [0, 1]), ("R2", (0.9, 0.86, 0.8), [0, 1])]
)
def test_a_model_that_is_far_behind_is_no_input(metric, values, chosen):
    """Its folds would be stored and asked for every row, for nothing; unlike errors alone are no merit."""
    rng = np.random.default_rng(0)
    oofs = rng.normal(size=(3, 200, 1)).astype(np.float32)
    candidates = [Candidate(k, "ABC"[k], value, oof) for k, (value, oof) in enumerate(zip(values, oofs, strict=True))]
    greedy = select(candidates[:1], NUMBER, metric, rng.normal(size=200), None, seed=0)

    assert [c.trial for c in choose_inputs(candidates, greedy, metric, 3)] == chosen


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [((2.0, 2.0, 5.0, 4.0, 0.0), [0, 1, 3, 4]), ((2.0, 2.0, 3.0, 2.0, 1.0), [0, 1, 2, 4]), ((0.0,) * 5, [*range(5)])],
)
def test_what_takes_longer_than_all_members_is_no_input(seconds, chosen):
    """Two members of two seconds each: what joins them may take four, together."""
    rng = np.random.default_rng(0)
    oofs = rng.normal(size=(5, 200, 1)).astype(np.float32)
    candidates = [
        Candidate(k, "ABCDE"[k], 1.0, oof, predict_seconds=own)
        for k, (oof, own) in enumerate(zip(oofs, seconds, strict=True))
    ]
    greedy = replace(
        select(candidates[:2], NUMBER, "Rmse", rng.normal(size=200), None, seed=0), weights={0: 0.5, 1: 0.5}
    )

    assert [c.trial for c in choose_inputs(candidates, greedy, "Rmse", 3)] == chosen


@pytest.mark.parametrize(
    ("three", "six", "taken"), [(1.0, 0.98, 8), (1.0, 0.9995, 5), (None, 0.98, 8), (1.0, None, 5), (None, None, None)]
)
def test_more_families_join_where_they_are_worth_it(monkeypatch, three, six, taken):
    """Three besides the two members, or six where these lower the loss by a thousandth; either may be no help at all."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=200)
    oofs = rng.normal(size=(9, 200, 1)).astype(np.float32)
    candidates = [Candidate(k, "ABCDEFGHI"[k], 1.0 + k / 100, oof) for k, oof in enumerate(oofs)]
    greedy = replace(select(candidates[:2], NUMBER, "Rmse", y, None, seed=0), weights={0: 0.5, 1: 0.5})
    values = {5: three, 8: six}

    def found(inputs, candidates, greedy, asked):
        value = values[len(inputs)]
        return None if value is None else replace(greedy, value=value, steps=len(inputs))

    monkeypatch.setattr(stacking, "_of_inputs", found)
    rows = Rows(pd.DataFrame(index=range(200)), y)
    schema = Schema("t", (Column("x", ColumnType.NUMBER),))
    fold = np.arange(200) % 4

    won = second_level(candidates, greedy, NUMBER, "Rmse", rows, fold, schema, seed=0, threads=1, deadline=float("inf"))

    assert (None if won is None else won.steps) == taken
