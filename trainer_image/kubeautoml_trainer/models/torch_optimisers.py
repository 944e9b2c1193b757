"""Optimisers whose whole state is a list of tensors, so that a training can be stored and taken up again to the last bit.

`torch.optim` does the same, but importing one imports torch's compiler, which takes longer than many a fit (see `torch_training.AdamW`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kubeautoml_trainer.models.torch_training import AdamW

RATE_OF_NESTEROV = 40.0
"""Learning rates are said as AdamW takes them; momentum without normalisation wants about so much more. A guess: the best rates of small
residual nets on digits and colour pictures with both."""


class Optimiser(Protocol):
    """Steps of gradient descent.

    param_groups: dicts with "params", "lr", "weight_decay"; what else they hold is the caller's.
    """

    param_groups: list[dict[str, Any]]

    def zero_grad(self) -> None: ...

    def step(self) -> None: ...

    def tensors(self) -> list[Tensor]:
        """Its state, in place: writing into them sets it."""
        ...


class Nesterov:
    """Gradient descent with Nesterov's momentum, as `torch.optim.SGD(nesterov=True)`; decay belongs to the gradient."""

    def __init__(self, param_groups: list[dict[str, Any]], momentum: float = 0.9) -> None:
        self.param_groups, self._momentum = param_groups, momentum
        self._speed = [[torch.zeros_like(t) for t in group["params"]] for group in param_groups]

    def zero_grad(self) -> None:
        for group in self.param_groups:
            for tensor in group["params"]:
                tensor.grad = None

    def tensors(self) -> list[Tensor]:
        return [t for speed in self._speed for t in speed]

    @torch.no_grad()
    def step(self) -> None:
        for group, speeds in zip(self.param_groups, self._speed, strict=True):
            used = [(t, s) for t, s in zip(group["params"], speeds, strict=True) if t.grad is not None]
            if not used:
                continue
            weights, speed = [t for t, _ in used], [s for _, s in used]
            gradients = torch._foreach_add([t.grad for t in weights], weights, alpha=group["weight_decay"])
            torch._foreach_mul_(speed, self._momentum)
            torch._foreach_add_(speed, gradients)
            torch._foreach_add_(gradients, speed, alpha=self._momentum)
            torch._foreach_add_(weights, gradients, alpha=-group["lr"])


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], factor: float = 1.0) -> list[dict[str, Any]]:
    """Parameters with the factor of their learning rate; biases and scales, which have one axis, are kept from decay."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for _, parameter in named:
        if parameter.requires_grad:
            (matrices if parameter.dim() > 1 else vectors).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": matrices, "factor": factor, "decays": True},
        {"params": vectors, "factor": factor, "decays": False},
    ]
    return [g for g in groups if g["params"]]


def make_optimiser(kind: str, groups: list[dict[str, Any]]) -> Optimiser:
    """kind: "adamw" or "nesterov"; groups as `parameter_groups` makes them."""
    for group in groups:
        group |= {"lr": 0.0, "weight_decay": 0.0}
    return Nesterov(groups) if kind == "nesterov" else AdamW(groups)


def set_rates(optimiser: Optimiser, kind: str, rate: float, decay: float) -> None:
    """The learning rate, as AdamW takes it, and the decay for the next step. A step of either shrinks weights by about rate x decay, in
    AdamW's terms."""
    scale = RATE_OF_NESTEROV if kind == "nesterov" else 1.0
    for group in optimiser.param_groups:
        group["lr"] = scale * rate * group["factor"]
        group["weight_decay"] = decay / scale if group["decays"] else 0.0
