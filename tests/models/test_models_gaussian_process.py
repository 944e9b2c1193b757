"""The Gaussian process is scikit-learn's where both have the same kernel, and learns its own within the deadline."""

import time

import numpy as np
import pytest
from scipy.optimize import check_grad
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern, WhiteKernel

from kubeautoml_trainer.models import family_named, gaussian_process
from kubeautoml_trainer.models.base import FitTimeout
from kubeautoml_trainer.models.gaussian_process import CORRELATIONS, KERNELS, Likelihood
from models.models_factories import make_context, make_real, parts_of, weighted

THEIRS = {
    "matern12": lambda lengths: Matern(lengths, nu=0.5),
    "matern32": lambda lengths: Matern(lengths, nu=1.5),
    "matern52": lambda lengths: Matern(lengths, nu=2.5),
    "rbf": RBF,
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_fitted_process_predicts_as_scikit_learns_with_the_same_kernel(kernel, monkeypatch):
    """To 1e-6: all hyperparameters are given to the other."""
    rows, schema = make_real("diabetes")
    train, _, test = parts_of(rows)
    learned = []
    maximise = gaussian_process._maximise
    monkeypatch.setattr(gaussian_process, "_maximise", lambda *args: learned.append(maximise(*args)) or learned[0])

    fitted = family_named("GaussianProcess").fit(train, None, schema, {"kernel": kernel}, make_context(schema))

    found, target = learned[0][0], fitted.model.target
    theirs = GaussianProcessRegressor(
        ConstantKernel(found.scale) * THEIRS[kernel](found.lengths) + WhiteKernel(found.noise), optimizer=None, alpha=0
    )
    theirs.fit(fitted.features.transform(train.frame).numbers, target.encode(train.y))
    expected = target.decode(theirs.predict(fitted.features.transform(test.frame).numbers))
    assert np.allclose(fitted.predict(test.frame), expected, rtol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_gradient_is_that_of_the_likelihood(kernel):
    """Against differences, with weights."""
    random = np.random.default_rng(0)
    x = random.normal(size=(30, 3))
    problem = Likelihood(kernel, x, random.normal(size=(30, 2)), random.uniform(0.5, 2, size=30))
    theta = problem.start(0.1) + random.normal(size=5) * 0.3

    error = check_grad(lambda t: problem.loss(t)[0], lambda t: problem.loss(t)[1], theta)

    assert error < 1e-4 * np.linalg.norm(problem.loss(theta)[1])


@pytest.mark.parametrize("kernel", KERNELS)
def test_equal_rows_leave_the_gradient_finite(kernel):
    """The roughest kernel has an edge there."""
    x = np.repeat(np.random.default_rng(0).normal(size=(10, 3)), 2, axis=0)
    problem = Likelihood(kernel, x, x[:, :1], np.ones(20))

    value, gradient = problem.loss(problem.start(0.1))

    assert np.isfinite(value) and np.linalg.norm(gradient) < 1e3


def test_a_column_of_noise_is_given_a_long_length():
    """What tells nothing hardly changes the correlation."""
    random = np.random.default_rng(1)
    x = random.normal(size=(200, 2))
    problem = Likelihood("matern52", x, np.sin(3 * x[:, :1]), np.ones(200))

    found, _ = gaussian_process._maximise(problem, 0.1, time.monotonic() + 60)

    assert found.lengths[1] > 5 * found.lengths[0]


def test_it_beats_a_mean_and_a_line_on_a_wavy_target():
    """R2 above 0.9 where a line has none."""
    random = np.random.default_rng(2)
    rows, schema = make_real("diabetes")
    x = random.normal(size=(len(rows), 10))
    frame = rows.frame.copy()
    frame[:] = x
    y = np.sin(2 * x[:, 0]) * 3 + x[:, 1] ** 2
    wavy = type(rows)(frame, y)
    train, valid, test = parts_of(wavy)

    fitted = family_named("GaussianProcess").fit(train, valid, schema, {}, make_context(schema))

    error = np.mean((fitted.predict(test.frame)[:, 0] - test.y) ** 2)
    assert 1 - error / np.var(test.y) > 0.9


def test_rows_beyond_the_learning_ones_still_vote(monkeypatch):
    """Hyperparameters come from a part, coefficients from all."""
    rows, schema = make_real("diabetes")
    monkeypatch.setattr(gaussian_process, "_LEARNING_ROWS", 100)

    fitted = family_named("GaussianProcess").fit(weighted(rows), None, schema, {}, make_context(schema))

    assert len(fitted.model.rows) == len(rows)


def test_without_time_there_is_a_clear_end():
    """No time for one look: FitTimeout; time for one: a model of the rows it learned from."""
    rows, schema = make_real("diabetes")
    family = family_named("GaussianProcess")

    with pytest.raises(FitTimeout, match="no time for one look"):
        family.fit(rows, None, schema, {}, make_context(schema, deadline=time.monotonic() - 1))


def test_equal_rows_with_no_noise_are_solved():
    """Each row twice: singular without jitter."""
    k = CORRELATIONS["rbf"].of(np.zeros((4, 4)))

    assert np.isfinite(gaussian_process._inverse(k)).all()


def test_scores_that_calibrate_are_those_of_a_process_without_the_row():
    """Leave-one-out by the closed form, against leaving one out."""
    random = np.random.default_rng(0)
    k = CORRELATIONS["matern32"].of(np.abs(random.normal(size=(8, 1)) - random.normal(size=8)))
    k = k @ k.T + np.eye(8)
    y = random.normal(size=(8, 2))
    inverse = gaussian_process._inverse(k)

    closed = y - (inverse @ y) / np.diag(inverse)[:, None]

    rest = np.arange(8) != 3
    assert np.allclose(closed[3], k[3, rest] @ np.linalg.solve(k[np.ix_(rest, rest)], y[rest]))


def test_classes_are_told_apart_with_honest_probabilities():
    """On wine nearly all, with a log loss to match."""
    rows, schema = make_real("wine")
    train, _, test = parts_of(rows)

    p = family_named("GaussianProcess").fit(train, None, schema, {}, make_context(schema)).predict(test.frame)

    assert np.mean(p.argmax(axis=1) == test.y) > 0.9
    assert -np.mean(np.log(p[np.arange(len(p)), test.y])) < 0.3
