"""Weights for the slot of tabular foundation models: random ones, and a small network trained for the tests."""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from kubeautoml_trainer.models.in_context import Config, Network, answer, remember, shapes
from kubeautoml_trainer.models.torch_in_context import TORCH

TINY = Config(features=10, classes=3, numbers=1, rows=200, width=32, heads=4, layers=2, hidden=64)
_TASK_ROWS = 128  # half to learn from, half to predict


def make_network(config: Config = TINY, seed: int = 0) -> Network:
    """Random weights, as torch's layers begin with."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes(config).items():
        bound = shape[-1] ** -0.5
        drawn = rng.uniform(-bound, bound, shape) if ".norm" not in name else np.full(shape, float("weight" in name))
        weights[name] = drawn.astype(np.float32)
    return Network(config, weights)


def write_network(folder: Path, network: Network) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    network.save(folder)
    return folder


def trained_network(steps: int = 500, seed: int = 0) -> Network:
    """Seconds of training on linear tasks: enough to learn from the rows it is given."""
    torch.manual_seed(seed)
    start = make_network(seed=seed)
    w = {name: torch.tensor(array, requires_grad=True) for name, array in start.weights.items()}
    optimiser = torch.optim.AdamW(list(w.values()), lr=2e-3)
    for step in range(steps):
        classes = 0 if step % 3 == 0 else 2 + step % 2
        x, y = _task(classes)
        known = _TASK_ROWS // 2
        memory = remember(TORCH, TINY, w, x[:known], y[:known])
        out = answer(TORCH, TINY, w, memory, x[known:], "class" if classes else "number")
        truth = y[known:]
        loss = (
            functional.cross_entropy(out[:, :classes], truth.long()) if classes else (out[:, 0] - truth).square().mean()
        )
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(w.values()), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1.0, (steps - step) / (steps / 2))
        optimiser.step()
    return Network(TINY, {name: t.detach().numpy() for name, t in w.items()})


def _task(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    used = int(torch.randint(2, TINY.features + 1, ()))
    x = torch.zeros(_TASK_ROWS, TINY.features)
    x[:, :used] = torch.randn(_TASK_ROWS, used) * (TINY.features / used)
    score = x[:, :used] @ torch.randn(used) / (TINY.features / used)
    score = (score - score.mean()) / score.std()
    if not classes:
        return x, score
    cuts = torch.quantile(score, torch.arange(1, classes) / classes)
    label = torch.bucketize(score, cuts)
    return x, torch.randperm(classes)[label].float()
