"""Training of the network in `torch_conv` on a column of pictures, and its way into ONNX."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.models.picture_rows import PictureRows
from kubeautoml_trainer.models.target import NumberTarget
from kubeautoml_trainer.models.torch_augment import Augmentation, Blend, augmented
from kubeautoml_trainer.models.torch_conv import Architecture, ConvNet, Normaliser, Scaler, Served
from kubeautoml_trainer.models.torch_lesson import Settings, Trained, training_and_validation
from kubeautoml_trainer.models.torch_loop import train
from kubeautoml_trainer.models.torch_onnx import to_onnx
from kubeautoml_trainer.models.torch_optimisers import parameter_groups
from kubeautoml_trainer.models.torch_parallel import World, on_all_accelerators
from kubeautoml_trainer.models.torch_pictures import Pictures
from kubeautoml_trainer.models.torch_training import Inputs

log = logging.getLogger("kubeautoml.worker")


@dataclass(frozen=True)
class Prepared:
    """Bytes to what a network takes: scaled to 0 to 1, augmented while training, normalised, channels last."""

    how: Augmentation
    normaliser: Normaliser

    def kind(self, draw: float) -> str:
        return self.how.blend(draw)

    def augment(self, raw: Inputs, generator: torch.Generator, kind: str) -> tuple[Inputs, Blend | None]:
        x, blend = augmented(raw[0].float() / 255.0, self.how, kind, generator)
        return (self._normal(x), raw[1]), blend

    def plain(self, raw: Inputs) -> Inputs:
        return self._normal(raw[0].float() / 255.0), raw[1]

    def _normal(self, x: Tensor) -> Tensor:
        normal: Tensor = self.normaliser(x)
        return normal.contiguous(memory_format=torch.channels_last)


def net_size(height: int, width: int, most: int) -> tuple[int, int]:
    """Pixels that the network sees: the stored ones, or fewer where the shorter side is longer than `most`.

    >>> net_size(28, 28, 64), net_size(128, 256, 64)
    ((28, 28), (64, 128))
    """
    share = min(1.0, most / min(height, width))
    return max(1, round(height * share)), max(1, round(width * share))


def fit(
    settings: Mapping[str, Any],
    shape: tuple[int, int, int],
    learned: PictureRows,
    judged: PictureRows | None,
    target: NumberTarget | None,
    context: FitContext,
) -> tuple[bytes, Trained]:
    """Train on all accelerators of the pod, or the one it has, or the CPU; return the network as ONNX with what came out of the training.

    Raises:
        FitTimeout: the deadline came before the first step.
    """
    arguments = (settings, shape, learned, judged, target)
    return on_all_accelerators(_fit, arguments, context, len(learned.pictures) * math.prod(shape))


def _fit(
    world: World,
    device: torch.device,
    settings: Mapping[str, Any],
    shape: tuple[int, int, int],
    learned: PictureRows,
    judged: PictureRows | None,
    target: NumberTarget | None,
    context: FitContext,
) -> tuple[bytes, Trained]:
    """One process's part of `fit`."""
    size = net_size(shape[0], shape[1], int(settings["pixels"]))
    scaler = Scaler(shape[0], shape[1], *size)
    examples = Pictures(learned.pictures, learned.numbers, shape, scaler, device)
    normaliser = Normaliser(*examples.moments()).to(device)
    prepared = Prepared(augmentation(settings, shape[2]), normaliser)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        net = ConvNet(architecture(settings, shape[2], min(size), learned.numbers.shape[1], context.task.outputs))
    held_out = None
    if judged is not None:
        held_out = Pictures(judged.pictures, judged.numbers, shape, scaler, device), judged.rows
    training, validation = training_and_validation(
        (examples, learned.rows),
        held_out,
        target,
        context,
        device,
        float(settings["smoothing"]),
        prepared,
        is_steady=True,
    )
    trained = train(
        net,
        lambda n: parameter_groups(n.named_parameters()),
        training,
        validation,
        loop_settings(settings),
        context,
        device,
        world,
    )
    return written(Served(scaler, normaliser, net, str(settings["views"])), shape, learned.numbers.shape[1]), trained


def written(served: Served, shape: tuple[int, int, int], numbers: int) -> bytes:
    """ONNX with the inputs "pictures" and, where there are other columns, "numbers"."""
    pictures = torch.zeros((2, *shape), dtype=torch.uint8)
    served = served.cpu().eval()
    if numbers:
        return to_onnx(served, [pictures, torch.zeros(2, numbers)], ["pictures", "numbers"])
    return to_onnx(_OnlyPictures(served), [pictures], ["pictures"])


class _OnlyPictures(torch.nn.Module):
    """A network whose rows have nothing but the picture."""

    def __init__(self, served: Served) -> None:
        super().__init__()
        self.served = served

    def forward(self, pictures: Tensor) -> Tensor:
        out: Tensor = self.served(pictures, torch.zeros(0, 0))
        return out


def architecture(settings: Mapping[str, Any], channels: int, side: int, numbers: int, outputs: int) -> Architecture:
    return Architecture(
        channels=channels,
        side=side,
        numbers=numbers,
        outputs=outputs,
        width=int(settings["width"]),
        stages=int(settings["stages"]),
        blocks=int(settings["blocks"]),
        kernel=int(settings["kernel"]),
        norm=str(settings["norm"]),
        activation=str(settings["activation"]),
        dropout=float(settings["dropout"]),
    )


def augmentation(settings: Mapping[str, Any], channels: int) -> Augmentation:
    """flip "auto" mirrors colour pictures only: grey ones are often signs and digits, which mirrored mean something else."""
    flip = settings["flip"]
    return Augmentation(
        flip=channels == 3 if flip == "auto" else flip == "yes",
        shift=float(settings["shift"]),
        crop=float(settings["crop"]),
        rotation=float(settings["rotation"]),
        shear=float(settings["shear"]),
        colour=float(settings["colour"]),
        cutout=float(settings["cutout"]),
        mixup=float(settings["mixup"]),
        cutmix=float(settings["cutmix"]),
    )


def loop_settings(settings: Mapping[str, Any]) -> Settings:
    return Settings(
        epochs=int(settings["epochs"]),
        batch=int(settings["batch_size"]),
        rate=float(settings["learning_rate"]),
        decay=float(settings["weight_decay"]),
        optimiser=str(settings["optimiser"]),
        schedule=str(settings["schedule"]),
        finds_rate=settings["rate_by"] == "test",
    )
