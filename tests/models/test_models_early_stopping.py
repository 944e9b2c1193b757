"""Patience and deadlines of the boosters; how numbers are coded for models that want them small."""

import numpy as np
import pytest

from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Schema
from kubeautoml_trainer.models.early_stopping import Patience, boosting_rounds, steering_loss
from kubeautoml_trainer.models.target import load_target, number_target, save_target
from kubeautoml_trainer.tasks import task_for


def make_clock(*moments: float):
    """A clock that says these moments, one a look."""
    ticks = iter(moments)
    return lambda: next(ticks)


def test_patience_grows_with_the_best_round():
    """0.3 x the best round, and ten rounds at least: after a best round 100 a fit may pause for 40."""
    patience = Patience(rounds=10, deadline=np.inf)
    assert patience.see(1, 2.0) and patience.see(100, 1.0) and not patience.see(120, 1.5)

    assert not patience.is_over(140)
    assert patience.is_over(141)


def test_a_round_that_would_end_too_late_is_not_begun():
    """The set-up before the first round does not count as a round."""
    patience = Patience(rounds=10, deadline=10.0, clock=make_clock(5.0, 7.0, 8.5))

    assert [patience.time_is_up() for _ in range(3)] == [False, False, True]


def test_slow_learners_may_take_more_rounds():
    """Up to ten thousand."""
    assert [boosting_rounds(rate) for rate in (0.1, 0.05, 0.001)] == [1000, 2000, 10_000]


def test_classes_are_steered_by_log_loss_and_numbers_by_the_objective():
    """Always a loss: a metric that rises is turned round, an undefined one is the worst."""
    classes = task_for(TaskType.TABULAR_CLASSIFICATION, Schema("t", (), ("a", "b")))
    numbers = task_for(TaskType.TABULAR_REGRESSION, Schema("t", ()))
    y, p = np.array([0, 1]), np.array([[0.5, 0.5], [0.5, 0.5]])

    assert steering_loss(classes, "RocAuc", y, p, None) == pytest.approx(np.log(2))
    assert steering_loss(numbers, "R2", y.astype(float), p[:, :1], None) == pytest.approx(0.0)
    assert steering_loss(numbers, "Mae", y.astype(float), p[:, :1], None) == pytest.approx(0.5)
    assert steering_loss(numbers, "R2", np.ones(2), p[:, :1], None) == np.inf


@pytest.mark.parametrize("metric", ["Rmse", "Rmsle"])
def test_a_number_is_written_small_and_read_back(metric, tmp_path):
    """Also through its file; the relative metric is learned in logarithms."""
    y = np.array([0.0, 10.0, 1e6])
    target = number_target(y, None, metric, standardise=True, bounded=True)
    save_target(target, tmp_path)

    encoded = target.encode(y)

    assert target.log == (metric == "Rmsle")
    assert np.abs(encoded).max() < 2 and np.allclose(load_target(tmp_path).decode(encoded)[:, 0], y, atol=1e-2)
    assert load_target(tmp_path).decode(np.array([-99.0, 99.0])).ravel().tolist() == [0.0, 1e6]
