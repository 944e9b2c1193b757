"""TabM: torch and numpy run the same function, numbers are cut at quantiles, members differ, the device decides its place."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kubeautoml.api.errors import BundleError
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.models import family_named, torch_tabm
from kubeautoml_trainer.models.base import DataShape
from kubeautoml_trainer.models.pipeline import load_pipeline
from kubeautoml_trainer.models.tabm import NUMPY, Architecture, forward, pieces_of
from models.models_factories import make_context, make_real, parts_of, weighted

SHAPE = DataShape(TaskType.TABULAR_REGRESSION, rows=1000, features=10, categories=2, texts=0, outputs=1)
QUICK = {"members": 4, "layers": 2, "width": 48, "bins": 16, "embedding": 8, "learning_rate": 0.006, "epochs": 60}


def make_architecture(**changes) -> Architecture:
    values = {
        "members": 3,
        "numbers": 5,
        "embedding": 6,
        "sizes": (4, 40),
        "embedded": (False, True),
        "layers": 2,
        "width": 16,
        "outputs": 3,
    }
    return Architecture(**(values | changes))


def make_weights(net: Architecture, numbers: np.ndarray) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = torch_tabm.initial_weights(net, pieces_of(numbers, 7), generator, torch.device("cpu"))
    fixed = ("left", "slope", "low", "high")
    return {
        n: t.detach() + (n not in fixed) * 0.1 * torch.randn(t.shape, generator=generator) for n, t in weights.items()
    }


@pytest.mark.parametrize(
    "changes", [{}, {"embedding": 0}, {"sizes": (), "embedded": ()}, {"outputs": 1, "layers": 1, "members": 1}]
)
def test_torch_and_numpy_run_the_same_function(changes):
    """What was trained in torch is what numpy predicts, to 1e-5; the members differ."""
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(50, 5)).astype(np.float32)
    net = make_architecture(**changes)
    codes = np.stack([rng.integers(0, 4, 50), rng.integers(0, 40, 50)], axis=1)[:, : len(net.sizes)]
    weights = make_weights(net, numbers)

    by_torch = forward(torch_tabm.TORCH, net, weights, torch.from_numpy(numbers), torch.from_numpy(codes)).numpy()
    by_numpy = forward(NUMPY, net, {n: t.numpy() for n, t in weights.items()}, numbers, codes)

    assert by_numpy.dtype == np.float32 and by_numpy.shape == (net.members, 50, net.outputs)
    assert np.abs(by_torch - by_numpy).max() < 1e-5 * max(1.0, float(np.abs(by_torch).max()))
    assert net.members == 1 or np.abs(by_numpy[0] - by_numpy[1]).mean() > 0.1


def test_numbers_are_cut_at_quantiles_and_go_on_beyond_the_ends():
    """Skewed values get bins of equal rows; outside of the training range the encoding goes on as a line."""
    values = np.array([0.0, 1, 2, 3, 100, 200])[:, None]

    left, slope, low, high = pieces_of(values, 5)
    encoded = np.clip((np.array([-1.0, 1.5, 150, 300])[:, None, None] - left) * slope, low, high)[:, 0]

    expected = [[-1, 0, 0, 0, 0], [1, 0.5, 0, 0, 0], [1, 1, 1, 1, 0.5], [1, 1, 1, 1, 2]]
    np.testing.assert_allclose(encoded, expected, atol=1e-6)


def test_few_values_make_few_bins_and_a_constant_none():
    """A 0/1 column is one line; a constant one is silent whatever comes; columns with fewer bins than others are padded with 0."""
    values = np.array([[0, 5, 1], [1, 5, 2], [1, 5, 3], [0, 5, 4.0]])

    left, slope, low, high = pieces_of(values, 3)
    encoded = np.clip((np.array([[1.0, 7.0, 4.0]])[:, :, None] - left) * slope, low, high)

    np.testing.assert_allclose(encoded, [[[1, 0, 0], [0, 0, 0], [1, 1, 1]]], atol=1e-6)


@pytest.mark.parametrize(("name", "share"), [("breast_cancer", 0.35), ("diabetes", 0.85)])
def test_it_learns_small_real_data_and_saves(name, share, tmp_path):
    """Its loss is at most this share of the constant prediction's, with weights; loaded, it predicts the same to the last bit."""
    rows, schema = make_real(name)
    train, valid, test = (weighted(part) for part in parts_of(rows))
    context = make_context(schema)
    fitted = family_named("TabM").fit(train, valid, schema, QUICK, context)
    constant = np.tile(context.task.prior(train.y, train.weight), (len(test), 1))

    own, floor = (context.task.score(context.metric, test.y, p, None) for p in (fitted.predict(test.frame), constant))

    assert own < share * floor
    fitted.save(tmp_path)
    assert np.array_equal(load_pipeline(tmp_path).predict(test.frame), fitted.predict(test.frame))


def test_it_stops_when_the_validation_rows_say_so_and_keeps_the_best_epoch():
    """Labels of pure chance: it ends long before its last epoch."""
    rows, schema = make_real("wine")
    train, valid, _ = parts_of(rows)
    chance = replace(train, y=np.random.default_rng(0).permutation(train.y))

    fitted = family_named("TabM").fit(chance, valid, schema, {**QUICK, "epochs": 5000}, make_context(schema))

    assert fitted.best_iteration < 100


def test_a_batch_that_weighs_nothing_teaches_nothing():
    """Most rows weigh nothing: the others decide, and nothing becomes NaN."""
    rows, schema = make_real("breast_cancer")
    train, valid, test = parts_of(rows)
    light = replace(train, weight=np.where(np.arange(len(train)) < 60, 1.0, 0.0))
    context = make_context(schema)

    fitted = family_named("TabM").fit(light, valid, schema, {**QUICK, "batch_size": 4}, context)

    assert context.task.score("RocAuc", test.y, fitted.predict(test.frame), None) > 0.95


def test_without_validation_rows_it_runs_its_epochs():
    """As a refit on all rows wants it."""
    rows, schema = make_real("wine")

    fitted = family_named("TabM").fit(rows, None, schema, {**QUICK, "epochs": 7}, make_context(schema))

    assert fitted.best_iteration == 7


def test_an_accelerator_brings_it_forward_and_lets_it_be_large():
    """Without one: small networks behind the first trees, on tables of moderate size."""
    family, large = family_named("TabM"), replace(SHAPE, rows=1_000_000)
    slow, fast = (family.portfolio(replace(SHAPE, accelerated=a)) for a in (False, True))

    assert fast[0][0] < slow[0][0] and "width" not in fast[0][1] and slow[0][1]["width"] == 64
    assert family.fits(replace(large, accelerated=True)) and not family.fits(large)
    assert not family.fits(replace(SHAPE, rows=100, accelerated=True))


@pytest.mark.parametrize("damage", ["gone", "cut", "other"])
def test_a_damaged_model_is_refused(damage, tmp_path):
    rows, schema = make_real("wine")
    family_named("TabM").fit(rows, None, schema, {**QUICK, "epochs": 1}, make_context(schema)).save(tmp_path)
    arrays = tmp_path / "tabm.safetensors"
    if damage == "gone":
        arrays.unlink()
    elif damage == "cut":
        arrays.write_bytes(arrays.read_bytes()[:100])
    else:
        (tmp_path / "tabm.json").write_text('{"members": 3}')

    with pytest.raises(BundleError, match=r"tabm\.safetensors cannot be read"):
        load_pipeline(tmp_path)


def test_the_clock_leaves_time_for_a_step_and_a_look_at_the_validation_rows():
    """Steps of a second, a look worth two: over from three seconds before the deadline on."""
    times = iter([0.0, 1.0, 2.0, 6.0, 7.5])
    clock = torch_tabm.StepClock(deadline=10.0, look=2.0, clock=lambda: next(times))

    over = []
    for done in (0, 1, 2, 6, 7):
        clock.steps = done
        over.append(clock.is_over())

    assert over == [False, False, False, False, True]
