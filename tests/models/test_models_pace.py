"""Boosting in too little time: larger steps instead of a model that is cut off, and refits that come as far."""

from __future__ import annotations

import math
import time

import numpy as np
import pandas as pd
import pytest

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Column, Rows, Schema
from kubeautoml_trainer.models import catboost, family_named, lightgbm, xgboost
from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.models.early_stopping import Pace, pace_of
from kubeautoml_trainer.tasks import task_for

SCHEMA = Schema("t", (Column("a", ColumnType.NUMBER), Column("b", ColumnType.NUMBER)), ())
TASK = task_for(TaskType.TABULAR_REGRESSION, SCHEMA)
MODULES = {"LightGBM": lightgbm, "XGBoost": xgboost, "CatBoost": catboost}


class Clock:
    """A second a look: a round, as it were."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.now, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


def ride(pace: Pace, rounds: int) -> list[float]:
    """The rates of so many rounds."""
    rates = []
    for _ in range(rounds):
        rates.append(pace.rate)
        pace.step()
    return rates


def rows(n: int = 400, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1]})
    return Rows(frame, np.sin(2 * x[:, 0]) + x[:, 0] * x[:, 1] + 0.1 * rng.normal(size=n))


def test_without_a_deadline_the_rate_stays() -> None:
    """So the same seed gives the same model."""
    assert set(ride(Pace(0.05, 15.0, math.inf, clock=Clock(1000.0)), 100)) == {0.05}


def test_with_time_enough_the_rate_stays() -> None:
    """300 rounds of 0.05 come to 15."""
    assert set(ride(Pace(0.05, 15.0, 1000.0, clock=Clock(0.1)), 300)) == {0.05}


def test_a_fit_that_would_be_cut_off_takes_larger_steps_and_arrives() -> None:
    """The clock ticks at looks alone: 100 of them are left after the fourth round, each as long as 4 rounds, then 8, ..."""
    clock = Clock(0.0)
    pace = Pace(0.05, 15.0, 100.0, clock=clock)
    rates = []
    while clock.now < 100:
        rates.append(pace.rate)
        clock.now += 1  # a round takes a second, so there are a hundred
        pace.step()

    assert rates[:4] == [0.05] * 4
    assert rates[4] == pytest.approx((15 - 4 * 0.05) / 96)
    assert sum(rates) == pytest.approx(15, rel=0.02)


def test_a_step_has_a_largest_size_and_is_never_made_smaller() -> None:
    clock = Clock(0.0)
    pace = Pace(0.05, 15.0, 10.0, clock=clock)
    for _ in range(8):
        clock.now += 1
        pace.step()
    assert pace.rate == 0.3

    clock.now -= 7.5  # rounds turn out to be quick
    for _ in range(64):
        pace.step()
    assert pace.rate == 0.3


def test_rounds_are_told_at_the_rate_asked_for() -> None:
    """Half of the way of a fit at twice the rate is what as many rounds at the own rate would have been."""
    pace = Pace(0.1, 15.0, math.inf)
    assert pace.nominal_rounds(7) == 7
    ride(pace, 10)
    pace.rate = 0.2
    ride(pace, 10)

    assert pace.travelled == pytest.approx(3.0)
    assert pace.nominal_rounds(20) == 30
    assert pace.nominal_rounds(10) == 15


def test_a_given_number_of_rounds_is_an_end_and_patience_is_another() -> None:
    """What larger steps have reached needs no further rounds, unless validation rows tell when to stop."""
    fixed, free = (
        pace_of({"learning_rate": 0.1, "iterations": 50}, True, 9.0),
        pace_of({"learning_rate": 0.1}, True, 9.0),
    )
    for pace in (fixed, free):
        pace.rate = 1.0
        pace.travelled = 20.0

    assert fixed.distance == pytest.approx(5.0)
    assert fixed.has_arrived()
    assert not free.has_arrived()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_hurried_booster_learns_what_an_unhurried_one_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time for 40 rounds at 0.02 where patience would take hundreds: with larger steps the error is far below that of the cut one."""

    def hurried(parameters, stops_by_itself, deadline, *distance):
        made = pace_of(parameters, stops_by_itself, deadline, *distance)
        return Pace(made.rate, made.distance, 1.0, made.is_end, clock=Clock(0.1))

    def error(parameters: dict[str, object]) -> float:
        context = FitContext(TASK, "Rmse", 0, 1, time.monotonic() + 60)
        pipeline = family_named(name).fit(rows(), rows(200, 1), SCHEMA, parameters, context)
        fresh = rows(500, 2)
        assert pipeline.best_iteration is not None
        return TASK.score("Rmse", fresh.y, pipeline.predict(fresh.frame), None)

    cut = error({"learning_rate": 0.02, "iterations": 40})
    monkeypatch.setattr(MODULES[name], "pace_of", hurried)
    quick = error({"learning_rate": 0.02, "iterations": 400})

    assert quick < 0.8 * cut


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_hurried_refit_needs_few_rounds_and_says_many(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """400 rounds of 0.02 are 27 of 0.3; the pipeline says 400, which is what a refit without hurry should take."""

    def hurried(parameters, stops_by_itself, deadline, *distance):
        made = pace_of(parameters, stops_by_itself, deadline, *distance)
        return Pace(made.rate, made.distance, 1.0, made.is_end, clock=Clock(0.5))

    monkeypatch.setattr(MODULES[name], "pace_of", hurried)
    context = FitContext(TASK, "Rmse", 0, 1, time.monotonic() + 60)

    pipeline = family_named(name).fit(rows(), None, SCHEMA, {"learning_rate": 0.02, "iterations": 400}, context)

    assert pipeline.best_iteration == pytest.approx(400, rel=0.1)
    booster = pipeline.model.booster
    trees = {
        "LightGBM": lambda: booster.booster.num_trees(),
        "XGBoost": lambda: booster.num_boosted_rounds(),
        "CatBoost": lambda: booster.tree_count_,
    }[name]()
    assert trees < 60
