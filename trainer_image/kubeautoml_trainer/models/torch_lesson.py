"""What a training is given and what comes of it: the words of the loop in `torch_loop` and of those who use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from kubeautoml_trainer.data.base import Rows
from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.models.target import NumberTarget
from kubeautoml_trainer.models.torch_augment import Blend
from kubeautoml_trainer.models.torch_parallel import World
from kubeautoml_trainer.models.torch_training import Inputs, Loss, fit_loss, judge, truth_tensor
from kubeautoml_trainer.tasks.metrics import weights_or_ones


class Examples(Protocol):
    """Rows to learn from or to judge by."""

    def __len__(self) -> int: ...

    def batches(self, orders: Sequence[Tensor]) -> Iterator[Inputs]:
        """The raw inputs of each batch, on the device; an order is int64 (b,), positions of rows."""
        ...


class Preparation(Protocol):
    """What is done to raw inputs before the network takes them."""

    def kind(self, draw: float) -> str:
        """Which kind of augmentation a batch gets; the number is drawn for it, from 0 to 1."""
        ...

    def augment(self, raw: Inputs, generator: torch.Generator, kind: str) -> tuple[Inputs, Blend | None]:
        """What the network learns from, and whose truths that holds."""
        ...

    def plain(self, raw: Inputs) -> Inputs:
        """The same without chance."""
        ...


class _AsTheyAre:
    def kind(self, draw: float) -> str:
        return ""

    def augment(self, raw: Inputs, generator: torch.Generator, kind: str) -> tuple[Inputs, Blend | None]:
        return raw, None

    def plain(self, raw: Inputs) -> Inputs:
        return raw


AS_THEY_ARE = _AsTheyAre()
"""Nothing is done."""


@dataclass(frozen=True)
class Settings:
    """How a network is trained.

    rate: greatest learning rate, as AdamW takes it. decay: of weights, as AdamW takes it. optimiser: "adamw" or "nesterov". schedule:
    "one_cycle" or "cosine". warm_up: share of the steps in which the rate rises. clip: greatest norm of a gradient. averaging: share of
    the steps over which weights are averaged; 0 for none. patience: epochs without a better validation at least, before a training ends.
    finds_rate: whether the rate comes from a range test, where the training is long enough to be worth one.
    """

    epochs: int
    batch: int = 128
    rate: float = 0.003
    decay: float = 0.02
    optimiser: str = "adamw"
    schedule: str = "one_cycle"
    warm_up: float = 0.2
    clip: float = 5.0
    averaging: float = 0.03
    patience: int = 10
    finds_rate: bool = False


@dataclass(frozen=True)
class Training:
    """What is learned. truth: (n,) and weight: float32 (n,), on the device.

    is_steady: whether shapes and the kind of a batch alone decide what is computed, and no number is read back from the device: then the
    device may record and replay it.
    """

    examples: Examples
    truth: Tensor
    weight: Tensor
    loss: Loss
    preparation: Preparation
    is_steady: bool = False


@dataclass(frozen=True)
class Validation:
    """What tells when to stop. judge: float32 (n, outputs) -> a loss, lower is better."""

    examples: Examples
    judge: Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Lesson:
    """Everything that one training is given.

    groups: the network's parameters as `torch_optimisers.parameter_groups` says them.
    """

    net: nn.Module
    groups: Callable[[nn.Module], list[dict[str, Any]]]
    training: Training
    validation: Validation | None
    settings: Settings
    context: FitContext
    device: torch.device
    world: World

    @property
    def batches(self) -> int:
        """Of an epoch."""
        return max(1, round(len(self.training.examples) / self.settings.batch))


@dataclass(frozen=True)
class Trained:
    """What came out; the network holds the weights of the best epoch.

    epoch: the best one, from 1. value: its validation loss. at_once: rows of a batch that memory held.
    """

    epoch: int
    value: float | None
    at_once: int
    rows_a_second: float


def training_and_validation(
    learned: tuple[Examples, Rows],
    judged: tuple[Examples, Rows] | None,
    target: NumberTarget | None,
    context: FitContext,
    device: torch.device,
    smoothing: float,
    preparation: Preparation,
    *,
    is_steady: bool = False,
) -> tuple[Training, Validation | None]:
    """What a task teaches by these examples, and what it judges by those; target: how numbers are encoded, None for classes."""
    examples, rows = learned
    training = Training(
        examples,
        truth_tensor(rows, target, device),
        torch.as_tensor(weights_or_ones(rows.weight, len(rows)), dtype=torch.float32, device=device),
        fit_loss(target, context, smoothing),
        preparation,
        is_steady,
    )
    return training, None if judged is None else Validation(judged[0], judge(judged[1], target, context))
