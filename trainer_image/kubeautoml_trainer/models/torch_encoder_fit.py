"""Training of heads on pretrained backbones, then of the backbones themselves; and the cache of what backbones say of pictures.

Frozen features are computed once per backbone, size and picture in a process, however many folds and trials ask: on the CPU by
onnxruntime, which is faster than torch there, on an accelerator by torch.
"""

from __future__ import annotations

import copy
import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kubeautoml_trainer.data.base import Rows
from kubeautoml_trainer.models.base import FitContext, FitTimeout
from kubeautoml_trainer.models.onnx_network import OnnxNetwork
from kubeautoml_trainer.models.picture_model import Answers, stacked
from kubeautoml_trainer.models.picture_rows import PictureRows
from kubeautoml_trainer.models.target import NumberTarget
from kubeautoml_trainer.models.torch_conv import Normaliser, Scaler, Served
from kubeautoml_trainer.models.torch_conv_fit import Prepared, augmentation, written
from kubeautoml_trainer.models.torch_encoder import (
    Backbone,
    Encoder,
    check_backbone,
    fixed_side,
    load_backbone,
    moments_of,
)
from kubeautoml_trainer.models.torch_head import START_SHARE, Head, Vectors, fine_tune, fit_head
from kubeautoml_trainer.models.torch_lesson import Trained
from kubeautoml_trainer.models.torch_onnx import to_onnx
from kubeautoml_trainer.models.torch_parallel import World, on_all_accelerators
from kubeautoml_trainer.models.torch_pictures import Pictures
from kubeautoml_trainer.models.torch_training import device_for_training, limited_threads

_BLOCK, _BLOCK_SIDE = 64, 128  # pictures that a backbone looks at together, and of which side
KEPT_BYTES = 512 * 2**20
"""Of features in this process."""


class FeatureStore:
    """Features by backbone, size and picture; the ones used last stay."""

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self._most, self._size = most_bytes, 0
        self._kept: OrderedDict[tuple[str, int, bytes], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: tuple[str, int, bytes]) -> np.ndarray | None:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def keep(self, key: tuple[str, int, bytes], features: np.ndarray) -> None:
        with self._lock:
            if key not in self._kept:
                self._size += features.nbytes
            self._kept[key] = features
            while self._size > self._most:
                self._size -= self._kept.popitem(last=False)[1].nbytes


FEATURES = FeatureStore()
"""This process's."""


@dataclass(frozen=True)
class Extractor:
    """A backbone that says what it sees in stored pictures. folder: where it lies. pixels: a side, as the network sees them."""

    folder: Path
    pixels: int
    shape: tuple[int, int, int]

    def features(self, pictures: np.ndarray, deadline: float, threads: int) -> np.ndarray:
        """float32 (n, features) of an object array of pictures, None among them.

        Raises:
            FitTimeout: the deadline came first; what was done is kept for the next try.
        """
        digests = [_digest(p) for p in pictures]
        keys = [(str(self.folder), self.pixels, d) for d in digests]
        wanted: dict[tuple[str, int, bytes], int] = {}
        found: dict[tuple[str, int, bytes], np.ndarray] = {}
        for k, key in enumerate(keys):
            if key in found or key in wanted:
                continue
            known = FEATURES.find(key)
            if known is None:
                wanted[key] = k
            else:
                found[key] = known
        todo = list(wanted.items())
        for first in range(0, len(todo), _BLOCK):
            if time.monotonic() > deadline:
                raise FitTimeout(
                    f"ImageEncoder: no time to look at all pictures, {len(todo) - first} are left; "
                    "give spec.budget.maxDurationSeconds more"
                )
            block = todo[first : first + _BLOCK]
            rows = np.array([k for _, k in block])
            for (key, _), features in zip(block, self._look(stacked(pictures[rows], self.shape), threads), strict=True):
                FEATURES.keep(key, features)
                found[key] = features
        return np.stack([found[key] for key in keys])

    def _look(self, pictures: np.ndarray, threads: int) -> np.ndarray:
        device = device_for_training()
        if device.type == "cpu":
            return _network_of(str(self.folder), self.pixels, self.shape).run({"pictures": pictures}, threads)
        served = _served_of(str(self.folder), self.pixels, self.shape).to(device)
        with torch.no_grad():
            out: Tensor = served(torch.as_tensor(pictures, device=device), torch.zeros(0, 0))
        return np.asarray(out.float().cpu().numpy())


class _OnlyFeatures(torch.nn.Module):
    """A backbone where a network with numbers beside the picture is expected."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pictures: Tensor, numbers: Tensor) -> Tensor:
        features: Tensor = self.backbone(pictures)
        return features


@lru_cache(maxsize=4)
def _served_of(folder: str, pixels: int, shape: tuple[int, int, int]) -> Served:
    path = Path(folder)
    scaler, normaliser = Scaler(shape[0], shape[1], pixels, pixels), Normaliser(*_moments(path, shape[2]))
    return Served(scaler, normaliser, _OnlyFeatures(load_backbone(path)), "none").eval()


@lru_cache(maxsize=4)
def _network_of(folder: str, pixels: int, shape: tuple[int, int, int]) -> OnnxNetwork:
    return OnnxNetwork(written(_served_of(folder, pixels, shape), shape, 0), at_once=_BLOCK)


def _moments(folder: Path, channels: int) -> tuple[Tensor, Tensor]:
    """As the backbone expects them: grey pictures take the mean over the colours."""
    mean, deviation = moments_of(folder)
    return (mean, deviation) if channels == 3 else (mean.mean(0, keepdim=True), deviation.mean(0, keepdim=True))


def _digest(picture: np.ndarray | None) -> bytes:
    return b"" if picture is None else hashlib.blake2b(picture.tobytes(), digest_size=16).digest()


def fit(
    folder: Path,
    settings: Mapping[str, Any],
    shape: tuple[int, int, int],
    learned: PictureRows,
    judged: PictureRows | None,
    target: NumberTarget | None,
    context: FitContext,
) -> tuple[OnnxNetwork, Trained, Answers | None]:
    """Train, and return the network with what came out of the training, and a quicker way to its answers in this process, if there is
    one.

    Raises:
        FitTimeout: the deadline came before there was anything.
    """
    device = device_for_training()
    config = check_backbone(folder)
    pixels = fixed_side(config) or int(settings["pixels"])
    extractor = Extractor(folder, pixels, shape)
    backbone = load_backbone(folder)
    is_tuned = settings["tuning"] == "fine"
    head, trained = _fit_head(extractor, settings, learned, judged, target, context, device, is_tuned)
    net = Encoder(backbone, head)
    if is_tuned:
        arguments = (net, extractor, settings, learned, judged, target)
        net, trained = on_all_accelerators(_fit_all, arguments, context, len(learned.pictures) * math.prod(shape))
    scaler = Scaler(shape[0], shape[1], pixels, pixels)
    views, numbers = str(settings["views"]), learned.numbers.shape[1]
    quick = None if is_tuned or views != "none" else _quick(extractor, head, numbers)
    served = Served(scaler, Normaliser(*_moments(folder, shape[2])), net, views)
    at_once = max(1, _BLOCK * _BLOCK_SIDE**2 // max(_BLOCK_SIDE, pixels) ** 2)
    return OnnxNetwork(written(served, shape, numbers), at_once), trained, quick


def _quick(extractor: Extractor, head: Head, numbers: int) -> Answers:
    """The head on features that this process knows already: they were looked at once, for all folds and trials."""
    inputs, names = [torch.zeros(2, len(head.mean))], ["features", "numbers"]
    inputs += [torch.zeros(2, numbers)] if numbers else []
    network = OnnxNetwork(to_onnx(head.eval(), inputs, names[: len(inputs)]))

    def answers(pictures: np.ndarray, beside: np.ndarray, threads: int) -> np.ndarray:
        inputs = {"features": extractor.features(pictures, math.inf, threads)}
        return network.run(inputs | ({"numbers": beside} if numbers else {}), threads)

    return answers


def _fit_head(
    extractor: Extractor,
    settings: Mapping[str, Any],
    learned: PictureRows,
    judged: PictureRows | None,
    target: NumberTarget | None,
    context: FitContext,
    device: torch.device,
    is_start: bool,
) -> tuple[Head, Trained]:
    """A head on frozen features. is_start: the backbone is trained afterwards, so this must not take all the time."""
    now = time.monotonic()
    deadline = now + START_SHARE * (context.deadline - now) if is_start else context.deadline

    def vectors(rows: PictureRows) -> Vectors:
        features = extractor.features(rows.pictures, deadline, context.threads)
        return Vectors(torch.as_tensor(features, device=device), torch.as_tensor(rows.numbers, device=device))

    with limited_threads(context.threads):
        seen = vectors(learned), learned.rows
        held_out = None if judged is None else (vectors(judged), judged.rows)
    within = replace(context, deadline=deadline)
    return fit_head(settings, seen, held_out, target, within, device, is_start=is_start)


def _fit_all(
    world: World,
    device: torch.device,
    net: Encoder,
    extractor: Extractor,
    settings: Mapping[str, Any],
    learned: PictureRows,
    judged: PictureRows | None,
    target: NumberTarget | None,
    context: FitContext,
) -> tuple[Encoder, Trained]:
    """Backbone and head together, each layer slower than the one above."""
    net = copy.deepcopy(net)
    shape, pixels = extractor.shape, extractor.pixels
    scaler = Scaler(shape[0], shape[1], pixels, pixels)
    normaliser = Normaliser(*_moments(extractor.folder, shape[2])).to(device)
    prepared = Prepared(augmentation(settings, shape[2]), normaliser)

    def pictures(rows: PictureRows) -> tuple[Pictures, Rows]:
        return Pictures(rows.pictures, rows.numbers, shape, scaler, device), rows.rows

    seen, held_out = pictures(learned), None if judged is None else pictures(judged)
    return net, fine_tune(net, settings, seen, held_out, target, context, device, world, prepared)
