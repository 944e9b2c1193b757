"""Training of the network in `tabm`: float32, all members in one pass, on the device that `torch_training` chooses."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kubeautoml_trainer.data.base import Rows
from kubeautoml_trainer.features import Encoded
from kubeautoml_trainer.models.base import FitContext, FitTimeout
from kubeautoml_trainer.models.early_stopping import Patience, steering_loss
from kubeautoml_trainer.models.tabm import Architecture, Operations, decoded, forward, members_mean, pieces_of
from kubeautoml_trainer.models.target import NumberTarget
from kubeautoml_trainer.models.torch_training import (
    AdamW,
    Weights,
    copied,
    device_for_training,
    dropout,
    fit_loss,
    input_tensors,
    limited_threads,
    per_column,
    settle_unseen,
    truth_tensor,
)
from kubeautoml_trainer.tasks.metrics import weights_or_ones

TORCH = Operations(
    clip=lambda x, low, high: torch.minimum(torch.maximum(x, low), high),
    per_column=per_column,
    per_member=torch.bmm,
    concatenate=torch.concatenate,
    relu=torch.relu,
)
_PATIENCE = 16  # epochs without a gain, as in the paper
_CLIP = 1.0  # norm of the gradient, as in the paper
_FORWARD = 0.5  # of a step's time is taken by a forward pass alone, at most
_FORGET = 0.95  # of the slowest step's time is still expected at the next
_BLOCK_VALUES = 50_000_000  # of a layer, validation rows at once: 200 MB
_CPU_BLOCK_VALUES = 4_000_000
# (rows below which, rows of a batch): as TabM's authors and pytabkit have them
_BATCHES = ((2_800, 32), (4_500, 64), (6_400, 128), (32_000, 256), (108_000, 512), (math.inf, 1024))


def train(
    net: Architecture,
    settings: dict[str, Any],
    x: Encoded,
    rows: Rows,
    seen: Encoded | None,
    valid: Rows | None,
    target: NumberTarget | None,
    context: FitContext,
) -> tuple[dict[str, np.ndarray], int]:
    """Learn until the members' mean gets no better on the validation rows, for the wanted epochs, or until time ends;
    returns the weights of the best epoch (numpy, float32), and which it was.

    Raises:
        FitTimeout: the deadline passed before the first step.
    """
    device = device_for_training()
    generator = torch.Generator(device).manual_seed(context.seed)
    with limited_threads(context.threads):
        numbers, codes = input_tensors(x, device)
        truth = truth_tensor(rows, target, device)
        weight = torch.as_tensor(weights_or_ones(rows.weight, len(rows)), dtype=torch.float32, device=device)
        held_out = None if seen is None else input_tensors(seen, device)
        w = initial_weights(net, pieces_of(x.numbers, int(settings["bins"])), generator, device)
        optimiser = _optimiser(w, settings)
        loss, drop = fit_loss(target, context), dropout(float(settings["dropout"]), generator)
        batch = int(settings.get("batch_size", next(size for below, size in _BATCHES if len(rows) < below)))
        best, patience = copied(w), Patience(_PATIENCE, context.deadline)
        clock = StepClock(context.deadline, 0.0 if valid is None else len(valid) / batch * _FORWARD)
        for epoch in range(1, int(settings["epochs"]) + 1):
            order = torch.randperm(len(rows), generator=generator, device=device)
            for here in torch.chunk(order, max(1, len(rows) // batch)):
                if clock.is_over():
                    break
                out = forward(TORCH, net, w, numbers[here], codes[here], drop)
                each = truth[here].expand(net.members, -1), weight[here].expand(net.members, -1)
                optimiser.zero_grad()
                torch.autograd.backward(loss(out, *each))
                torch.nn.utils.clip_grad_norm_([t for t in w.values() if t.requires_grad], _CLIP)
                optimiser.step()
                clock.steps += 1
            if not clock.steps:
                raise FitTimeout("TabM: no time for one step; give spec.budget.maxDurationSeconds more")
            value = -float(epoch)  # without validation rows the last epoch is the best
            if valid is not None and held_out is not None:
                p = decoded(_predict(net, w, *held_out, target is None), target)
                value = steering_loss(context.task, context.metric, valid.y, p, valid.weight)
            if patience.see(epoch, value):
                best = copied(w)
            if epoch - patience.best_round >= _PATIENCE or clock.is_over():
                break
    settle_unseen(net.embedded, best, x.codes)
    return {name: np.ascontiguousarray(t.cpu().numpy()) for name, t in best.items()}, patience.best_round


@dataclass
class StepClock:
    """Whether another step, as slow as the slow ones so far, and a look at the validation rows would pass the deadline.

    look: what the latter takes, in steps.
    """

    deadline: float
    look: float
    clock: Callable[[], float] = time.monotonic
    steps: int = 0
    _slow: float = 0.0
    _last: float | None = None
    _seen: int = 0

    def is_over(self) -> bool:
        now = self.clock()
        if self._last is not None and self.steps > self._seen:
            took = (now - self._last) / (self.steps - self._seen)
            self._slow = max(took, _FORGET * self._slow)  # the first steps are slow for reasons of their own
        self._last, self._seen = now, self.steps
        return now + self._slow * (1 + self.look) > self.deadline


def initial_weights(
    net: Architecture,
    pieces: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    generator: torch.Generator,
    device: torch.device,
) -> Weights:
    """Random weights, float32, with gradients (but for one-hot tables and the bins).

    All that makes the members differ at first is their scale of the inputs, one random number a column of the data, and
    their heads; the other scales begin with 1.

    pieces: of `tabm.pieces_of`.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    def uniform(bound: float, *shape: int) -> Tensor:
        return (torch.rand(shape, generator=generator, device=device) * 2 - 1) * bound

    w: Weights = {}
    if net.embedding:
        for name, array in zip(("left", "slope", "low", "high"), pieces, strict=True):
            w[name] = torch.as_tensor(array, device=device)
        w["line"] = uniform(1.0, net.numbers, net.embedding)
        w["line_bias"] = uniform(1.0, net.numbers, net.embedding)
        w["bend"] = torch.zeros(net.numbers, pieces[0].shape[1], net.embedding, device=device)
    for c, (size, embedded) in enumerate(zip(net.sizes, net.embedded, strict=True)):
        w[f"table{c}"] = normal(size, 8) if embedded else torch.eye(size, device=device)
    k, inputs = net.members, sum(net.pieces)
    for layer in range(net.layers):
        scale = torch.ones(k, inputs, device=device)
        if layer == 0 and inputs:
            repeats = torch.tensor(net.pieces, device=device)
            scale = torch.repeat_interleave(normal(k, len(net.pieces)), repeats, dim=1)
        w[f"scale_in{layer}"] = scale
        bound = max(1, inputs) ** -0.5
        w[f"weight{layer}"] = uniform(bound, inputs, net.width)
        w[f"scale_out{layer}"] = torch.ones(k, net.width, device=device)
        w[f"bias{layer}"] = uniform(bound, k, net.width)
        inputs = net.width
    w["head"] = uniform(inputs**-0.5, k, inputs, net.outputs)
    w["head_bias"] = uniform(inputs**-0.5, k, net.outputs)
    for name, tensor in w.items():
        tensor.requires_grad_(name not in ("left", "slope", "low", "high") and not _is_one_hot(net, name))
    return w


def _is_one_hot(net: Architecture, name: str) -> bool:
    return name.startswith("table") and not net.embedded[int(name.removeprefix("table"))]


def _optimiser(w: Weights, settings: dict[str, Any]) -> AdamW:
    """Weights of layers and heads decay, nothing else."""
    learned = {name: t for name, t in w.items() if t.requires_grad}
    decays = [t for name, t in learned.items() if name.startswith("weight") or name == "head"]
    others = [t for name, t in learned.items() if not (name.startswith("weight") or name == "head")]
    rate = float(settings["learning_rate"])
    groups = [
        {"params": decays, "lr": rate, "weight_decay": float(settings["weight_decay"])},
        {"params": others, "lr": rate, "weight_decay": 0.0},
    ]
    return AdamW(groups)


@torch.no_grad()
def _predict(net: Architecture, w: Weights, numbers: Tensor, codes: Tensor, has_classes: bool) -> np.ndarray:
    values = _CPU_BLOCK_VALUES if numbers.device.type == "cpu" else _BLOCK_VALUES
    block = max(1, values // (net.members * max(net.width, sum(net.pieces))))
    parts = [
        members_mean(forward(TORCH, net, w, numbers[k : k + block], codes[k : k + block]).cpu().numpy(), has_classes)
        for k in range(0, len(numbers), block)
    ]
    return np.concatenate(parts)
