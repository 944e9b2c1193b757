"""The head that is put on a pretrained backbone: trained alone on frozen features, or with the backbone, each layer at its own rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kubeautoml_trainer.data.base import Rows
from kubeautoml_trainer.models.base import FitContext, Unwatched
from kubeautoml_trainer.models.target import NumberTarget
from kubeautoml_trainer.models.torch_lesson import (
    AS_THEY_ARE,
    Examples,
    Preparation,
    Settings,
    Trained,
    training_and_validation,
)
from kubeautoml_trainer.models.torch_loop import train
from kubeautoml_trainer.models.torch_optimisers import parameter_groups
from kubeautoml_trainer.models.torch_parallel import World
from kubeautoml_trainer.models.torch_training import Inputs

_HIDDEN = 256  # units between features and outputs, where the head has a hidden layer; a guess
_START_EPOCHS = 40  # of the head alone, before the backbone is trained, too; a guess
_FASTER = 10.0  # what the head learns faster than the layer below it, when both are trained; a guess
START_SHARE = 0.4
"""Of a fit's time that the head alone may take where the backbone is trained afterwards; a guess."""


class Head(nn.Module):
    """float (n, features), float (n, numbers) -> float (n, outputs). Features are brought to mean 0 and deviation 1 first."""

    def __init__(
        self, mean: Tensor, deviation: Tensor, numbers: int, outputs: int, *, hidden: bool, dropout: float
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("scale", 1.0 / deviation.float().clamp_min(1e-6))
        width = len(mean) + numbers
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        if hidden:
            layers += [nn.Linear(width, _HIDDEN), nn.GELU(), nn.Dropout(dropout)]
        last = nn.Linear(_HIDDEN if hidden else width, outputs)
        nn.init.zeros_(last.weight)
        self.layers = nn.Sequential(*layers, last)

    mean: Tensor
    scale: Tensor

    def forward(self, features: Tensor, numbers: Tensor | None = None) -> Tensor:
        x = ((features - self.mean) * self.scale).clamp(-10.0, 10.0)
        beside = [] if numbers is None or not numbers.shape[-1] else [numbers]
        out: Tensor = self.layers(torch.cat([x, *beside], dim=1))
        return out


class Headed(nn.Module):
    """A pretrained backbone and the head on it, which learn together in `fine_tune`; how one feeds the other is the kind's own."""

    has_idle_parameters = True  # transformers' own poolers

    def __init__(self, backbone: nn.Module, head: Head) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head


@dataclass(frozen=True)
class Vectors:
    """Features and numbers beside them, in memory on the device."""

    features: Tensor
    numbers: Tensor

    def __len__(self) -> int:
        return len(self.features)

    def batches(self, orders: Sequence[Tensor]) -> Iterator[Inputs]:
        for order in orders:
            yield self.features[order], self.numbers[order]


def fit_head(
    settings: Mapping[str, Any],
    learned: tuple[Vectors, Rows],
    judged: tuple[Vectors, Rows] | None,
    target: NumberTarget | None,
    context: FitContext,
    device: torch.device,
    *,
    is_start: bool,
) -> tuple[Head, Trained]:
    """A head on frozen features.

    Args:
        settings: "head" ("linear" or "hidden"), "dropout", "epochs", "batch_size", "head_rate", "weight_decay", "smoothing".
        is_start: the backbone is trained afterwards: a short training that reports nothing and keeps no state, as the longer one does.

    Raises:
        FitTimeout: the deadline came before the first step.
    """
    seen = learned[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        head = Head(
            seen.features.mean(dim=0).cpu(),
            seen.features.std(dim=0, correction=0).cpu(),
            seen.numbers.shape[1],
            context.task.outputs,
            hidden=settings["head"] == "hidden",
            dropout=float(settings["dropout"]),
        )
    how = Settings(
        epochs=_START_EPOCHS if is_start else int(settings["epochs"]),
        batch=int(settings["batch_size"]),
        rate=float(settings["head_rate"]),
        decay=float(settings["weight_decay"]),
    )
    training, validation = training_and_validation(
        learned, judged, target, context, device, float(settings["smoothing"]), AS_THEY_ARE, is_steady=True
    )
    within = replace(context, progress=Unwatched()) if is_start else context
    trained = train(head, lambda n: parameter_groups(n.named_parameters()), training, validation, how, within, device)
    return head.cpu(), trained


def fine_tune(
    net: Headed,
    settings: Mapping[str, Any],
    learned: tuple[Examples, Rows],
    judged: tuple[Examples, Rows] | None,
    target: NumberTarget | None,
    context: FitContext,
    device: torch.device,
    world: World,
    preparation: Preparation = AS_THEY_ARE,
) -> Trained:
    """Backbone and head together, each layer slower than the one above; afterwards `net` has the weights of the best epoch.

    Args:
        settings: "tuning_epochs", "batch_size", "learning_rate", "rate_by", "weight_decay", "layer_decay", "smoothing".
        preparation: of the examples; left out, they are what the network takes.

    Raises:
        FitTimeout: the deadline came before the first step.
    """
    training, validation = training_and_validation(
        learned, judged, target, context, device, float(settings["smoothing"]), preparation
    )
    how = Settings(
        epochs=int(settings["tuning_epochs"]),
        batch=int(settings["batch_size"]),
        rate=float(settings["learning_rate"]),
        decay=float(settings["weight_decay"]),
        schedule="cosine",
        finds_rate=settings["rate_by"] == "test",
        warm_up=0.1,
        clip=1.0,
    )

    def groups(module: nn.Module) -> list[dict[str, Any]]:
        assert isinstance(module, Headed)
        return layered_groups(module.backbone, module.head, float(settings["layer_decay"]))

    return train(net, groups, training, validation, how, context, device, world)


def layered_groups(backbone: nn.Module, head: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Parameters with the factor of their learning rate: each layer `decay` times that of the one above it, the head ten times
    (Howard and Ruder 2018, arXiv:1801.06146).
    """
    layers = _layer_names(backbone)
    depth = len(layers) + 1
    groups = parameter_groups(head.named_parameters(), _FASTER)
    by_depth: dict[int, list[tuple[str, nn.Parameter]]] = {}
    seen = 0
    for name, parameter in backbone.named_parameters():
        found = next((k + 1 for k, prefix in enumerate(layers) if name.startswith(prefix + ".")), None)
        if found is None:
            found = 0 if not seen else depth  # before the first layer, or behind them
        else:
            seen = found
        by_depth.setdefault(found, []).append((name, parameter))
    for place, some in sorted(by_depth.items()):
        groups += parameter_groups(some, decay ** (depth - place))
    return groups


def _layer_names(backbone: nn.Module) -> list[str]:
    """Names of the layers, from below: the parts of the longest list of modules, or of all lists where one is in another."""
    lists = [(name, module) for name, module in backbone.named_modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        return []
    name, longest = max(lists, key=lambda item: len(item[1]))
    return [f"{name}.{k}" for k in range(len(longest))]
