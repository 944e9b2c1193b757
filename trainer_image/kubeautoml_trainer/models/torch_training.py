"""What the networks' training has in common: the device, the pace, the loss.

Device: CUDA when there is one, else the CPU. Training is deterministic for a seed on one device and thread count, as
every random number comes from generators made with that seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kubeautoml_trainer.data.base import Rows
from kubeautoml_trainer.features import Encoded
from kubeautoml_trainer.features.base import MISSING, OTHER
from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.models.early_stopping import steering_loss
from kubeautoml_trainer.models.neural_network import prediction
from kubeautoml_trainer.models.target import NumberTarget

Weights = dict[str, Tensor]
"""By name."""
Inputs = tuple[Tensor, ...]
"""What the examples give of a batch, or what the network takes; each (b, ...)."""
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(output float32 (..., outputs), truth (...), weight (...)) -> the weighted mean, a number."""

_MEASURED = 20  # steps after which the pace is known
_DECIDED = ("Accuracy", "BalancedAccuracy", "F1", "F1Macro", "Precision", "Recall", "MatthewsCorrelation")
_ABSOLUTE = ("Mae", "MedianAbsoluteError", "Mape")


def device_for_training() -> torch.device:
    """The first CUDA device, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def time_is_up(deadline: float) -> bool:
    """Whether `time.monotonic()` is past the deadline."""
    return time.monotonic() > deadline


@dataclass
class Pace:
    """How far training is, from 0 to 1: by steps, or by time once the steps do not fit into it.

    Time counts only then, so that a fit with time enough depends on its seed alone.
    """

    steps: int
    deadline: float
    done: int = 0
    progress: float = 0.0
    is_short: bool = False
    started: float = field(default_factory=time.monotonic)

    def step(self) -> float:
        """Begin a step; returns the progress at its middle."""
        elapsed = time.monotonic() - self.started
        available = max(self.deadline - self.started, 1e-9)
        self.is_short = self.is_short or (self.done >= _MEASURED and elapsed / self.done * self.steps > available)
        by_time = elapsed / available if self.is_short else 0.0
        self.progress = max(self.progress, (self.done + 0.5) / self.steps, by_time)
        self.done += 1
        return self.progress


class AdamW:
    """What `torch.optim.AdamW(fused=True)` does, to the last bit; but that imports torch's compiler, which took a second of a
    core to two when measured, longer than many a fit.

    param_groups: dicts with "params" (tensors with gradients), "lr" and "weight_decay", which may be changed between steps.
    """

    def __init__(self, param_groups: list[dict[str, Any]], betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.param_groups, self._betas = param_groups, betas
        self._moments = [[[torch.zeros_like(t) for t in group["params"]] for _ in range(2)] for group in param_groups]
        self._steps = [
            [torch.zeros((), dtype=torch.float32, device=t.device) for t in group["params"]] for group in param_groups
        ]

    def zero_grad(self) -> None:
        for group in self.param_groups:
            for tensor in group["params"]:
                tensor.grad = None

    def tensors(self) -> list[Tensor]:
        """Its state, in place: writing into them sets it."""
        moments = [t for pair in self._moments for kind in pair for t in kind]
        return moments + [t for steps in self._steps for t in steps]

    @torch.no_grad()
    def step(self) -> None:
        for group, (first, second), steps in zip(self.param_groups, self._moments, self._steps, strict=True):
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                group["params"],
                [t.grad for t in group["params"]],
                first,
                second,
                [],
                steps,
                lr=group["lr"],
                beta1=self._betas[0],
                beta2=self._betas[1],
                weight_decay=group["weight_decay"],
                eps=1e-8,
                amsgrad=False,
                maximize=False,
            )


def input_tensors(x: Encoded, device: torch.device) -> tuple[Tensor, Tensor]:
    """numbers float32 (n, k), codes int64 (n, c), on the device."""
    numbers = torch.as_tensor(x.numbers, dtype=torch.float32, device=device)
    return numbers, torch.as_tensor(x.codes, dtype=torch.int64, device=device)


def truth_tensor(rows: Rows, target: NumberTarget | None, device: torch.device) -> Tensor:
    """What is to be learned, (n,): int64 classes, or float32 encoded numbers."""
    if target is None:
        return torch.as_tensor(rows.y, dtype=torch.int64, device=device)
    return torch.as_tensor(target.encode(rows.y), dtype=torch.float32, device=device)


def fit_loss(target: NumberTarget | None, context: FitContext, smoothing: float = 0.0) -> Loss:
    """Cross entropy for classes; for a number the squared error, the absolute error where the metric is about that, or
    the pinball loss of the task's quantiles.

    Args:
        smoothing: of labels, where the metric scores decisions and not probabilities.
    """
    smooth = smoothing if context.metric in _DECIDED else 0.0
    levels = context.task.quantiles
    # once a device: a step that copies from the processor could not be recorded
    placed = cache(lambda device: torch.tensor(levels, dtype=torch.float32, device=device))

    def classes(out: Tensor, truth: Tensor) -> Tensor:
        each = functional.cross_entropy(
            out.reshape(-1, out.shape[-1]), truth.reshape(-1), reduction="none", label_smoothing=smooth
        )
        return each.reshape(truth.shape)

    def number(out: Tensor, truth: Tensor) -> Tensor:
        gap = out[..., 0] - truth
        return gap.abs() if context.metric in _ABSOLUTE else gap.square()

    def quantiles(out: Tensor, truth: Tensor) -> Tensor:
        return pinball(out, truth, placed(out.device))

    each_of = classes if target is None else quantiles if levels else number

    def mean(out: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
        return (each_of(out, truth) * weight).sum() / weight.sum().clamp_min(1e-12)  # a batch may weigh nothing

    return mean


def judge(rows: Rows, target: NumberTarget | None, context: FitContext) -> Callable[[np.ndarray], float]:
    """What outputs for these rows, float32 (n, outputs), are worth: the loss that steers, lower is better."""

    def loss(out: np.ndarray) -> float:
        return steering_loss(context.task, context.metric, rows.y, prediction(out, target), rows.weight)

    return loss


def pinball(out: Tensor, truth: Tensor, levels: Tensor) -> Tensor:
    """Mean loss over the quantiles: too low costs the level, too high the rest of it (Koenker and Bassett 1978).

    Args:
        out: float (..., quantiles). truth: float (...). levels: float (quantiles,), in (0, 1).

    Returns:
        float (...).

    >>> pinball(torch.tensor([[1.0, 4.0]]), torch.tensor([2.0]), torch.tensor([0.5, 0.75]))
    tensor([0.5000])
    """
    gap = truth[..., None] - out
    return torch.maximum(levels * gap, (levels - 1) * gap).mean(-1)


def copied(w: Weights) -> Weights:
    """As they are now, without gradients."""
    return {name: tensor.detach().clone() for name, tensor in w.items()}


def settle_unseen(embedded: Sequence[bool], w: Weights, codes: np.ndarray) -> None:
    """Codes that training never had: an embedding becomes the mean of the learned ones, a one-hot row zeros.

    Args:
        embedded: whether `table<column>` in `w` is a learned embedding or one-hot.
        codes: int (n, columns), of the training rows.
    """
    for c, is_learned in enumerate(embedded):
        table = w[f"table{c}"]
        present = np.bincount(codes[:, c], minlength=len(table)) > 0
        for code in (MISSING, OTHER):
            if not present[code]:
                table[code] = table[torch.as_tensor(present, device=table.device)].mean(0) if is_learned else 0.0


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """At most so many threads of torch inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def dropout(rate: float, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Of a layer's values; without a rate nothing is done."""

    def drop(h: Tensor) -> Tensor:
        keep = torch.rand(h.shape, generator=generator, device=h.device) >= rate
        return h * keep / (1 - rate)

    return drop if rate > 0 else lambda h: h


def per_column(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """(n, k, a), (k, a, b) -> (n, k, b): a matrix product for each k."""
    return torch.bmm(x.transpose(0, 1), w).transpose(0, 1)
