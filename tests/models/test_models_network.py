"""The network: torch and numpy run the same function, and a short time still ends in a cooled-down network."""

import time

import numpy as np
import torch

from kubeautoml_trainer.models import torch_net
from kubeautoml_trainer.models.neural_network import NUMPY, Architecture, forward
from kubeautoml_trainer.models.torch_training import Pace


def make_architecture(**changes) -> Architecture:
    values = {
        "numbers": 5,
        "sizes": (4, 30),
        "embedded": (False, True),
        "layers": 3,
        "width": 16,
        "outputs": 3,
        "activation": "selu",
        "periodic": True,
    }
    return Architecture(**(values | changes))


def make_weights(net: Architecture) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = torch_net.initial_weights(net, 0.5, generator, torch.device("cpu"))
    return {name: t.detach() + 0.1 * torch.randn(t.shape, generator=generator) for name, t in weights.items()}


def test_torch_and_numpy_run_the_same_function():
    """What was trained in torch is what numpy predicts, to 1e-5, for both activations and with or without waves."""
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(50, 5)).astype(np.float32)
    codes = np.stack([rng.integers(0, 4, 50), rng.integers(0, 30, 50)], axis=1)

    for changes in ({}, {"activation": "mish", "outputs": 1}, {"periodic": False}, {"sizes": (), "embedded": ()}):
        net = make_architecture(**changes)
        weights = make_weights(net)
        used = codes[:, : len(net.sizes)]
        by_torch = forward(torch_net.TORCH, net, weights, torch.from_numpy(numbers), torch.from_numpy(used)).numpy()
        by_numpy = forward(NUMPY, net, {name: t.numpy() for name, t in weights.items()}, numbers, used)
        assert by_numpy.dtype == np.float32
        assert np.abs(by_torch - by_numpy).max() < 1e-5 * max(1.0, float(np.abs(by_torch).max()))


def test_the_pace_follows_the_steps_while_there_is_time():
    """With time enough nothing depends on the clock."""
    pace = Pace(steps=4, deadline=time.monotonic() + 1000)

    assert [pace.step() for _ in range(4)] == [0.125, 0.375, 0.625, 0.875]


def test_the_pace_follows_the_clock_when_the_steps_do_not_fit():
    """A thousandth of the steps in half of the time: progress is a half, and the schedules cool down in time."""
    now = time.monotonic()
    pace = Pace(steps=100_000, deadline=now + 500, done=100, started=now - 500)

    assert 0.5 <= pace.step() < 0.51
    assert pace.is_short
