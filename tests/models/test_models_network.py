"""The network: torch and numpy run the same function, and a short time still ends in a cooled-down network."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from kubeautoml.api.dataset import ColumnType
from kubeautoml_trainer.data.base import Column, Rows, Schema
from kubeautoml_trainer.models import family_named, torch_net
from kubeautoml_trainer.models.neural_network import NUMPY, Architecture, forward
from kubeautoml_trainer.models.torch_training import AdamW, Pace
from models.models_factories import make_context


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


@pytest.mark.parametrize(("seen_rows", "best"), [(60, 8), (1_000, 2)])
def test_a_lucky_epoch_on_few_validation_rows_is_not_the_best(monkeypatch, seen_rows, best):
    """One low loss amid high ones is chance on sixty rows and a finding on a thousand."""
    losses = [3.0, 1.0, 3.0, 2.5, 2.0, 1.5, 1.3, 1.2]
    monkeypatch.setattr(torch_net, "steering_loss", lambda *a: losses.pop(0))
    rows, schema = make_numbers(60 + seen_rows)
    train, seen = rows.take(np.arange(60)), rows.take(np.arange(60, 60 + seen_rows))

    fitted = family_named("NeuralNetwork").fit(train, seen, schema, {"epochs": 8, "width": 8}, make_context(schema))

    assert fitted.best_iteration == best


def make_numbers(rows: int) -> tuple[Rows, Schema]:
    """A number that follows from two others."""
    x = np.random.default_rng(0).normal(size=(rows, 2))
    columns = tuple(Column(name, ColumnType.NUMBER) for name in "ab")
    return Rows(pd.DataFrame(x, columns=["a", "b"]), x[:, 0] - x[:, 1]), Schema("y", columns)


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


def test_the_own_optimiser_does_what_torchs_does():
    """To the last bit, over steps with another rate each, for two groups of which one decays."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(7, 5, generator=generator) for _ in range(3)]
    own, theirs = ([t.clone().requires_grad_() for t in start] for _ in range(2))

    def groups(tensors):
        first = {"params": tensors[:2], "lr": 0.1, "weight_decay": 0.02}
        return [first, {"params": tensors[2:], "lr": 0.3, "weight_decay": 0.0}]

    mine = AdamW(groups(own), betas=(0.9, 0.95))
    real = torch.optim.AdamW(groups(theirs), betas=(0.9, 0.95), fused=True)

    for step in range(5):
        for optimiser, tensors in ((mine, own), (real, theirs)):
            optimiser.param_groups[0]["lr"] = 0.1 / (1 + step)
            optimiser.zero_grad()
            sum((t**3).sum() for t in tensors).backward()
            optimiser.step()

    assert all(torch.equal(a, b) for a, b in zip(own, theirs, strict=True))


def test_a_fit_imports_no_compiler():
    """Torch's takes longer to import than many a fit takes."""
    script = """
import sys
from models.models_factories import make_context, make_real, parts_of
from kubeautoml_trainer.models import family_named
rows, schema = make_real("wine")
for name in ("NeuralNetwork", "TabM"):
    family_named(name).fit(*parts_of(rows)[:2], schema, {"epochs": 1, "width": 8}, make_context(schema))
print("torch._dynamo" in sys.modules)
"""
    tests = str(Path(__file__).parent.parent)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path])}

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=env)

    assert (done.stdout.strip(), done.returncode) == ("False", 0), done.stderr
