"""The fitted form of networks for pictures: ONNX, and what its outputs mean; predicts with onnxruntime, so torch is not needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.data.base import Schema
from kubeautoml_trainer.features import Encoded, Recipe
from kubeautoml_trainer.models.neural_network import prediction
from kubeautoml_trainer.models.onnx_network import OnnxNetwork, load_network
from kubeautoml_trainer.models.target import NumberTarget, load_target, save_target

_FILE = "network.json"
RECIPE = Recipe(scaling="standard", categories="onehot", images="pixels")
"""The pictures themselves, and the row's other columns as numbers beside them."""


Answers = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""(pictures object (n,), numbers float32 (n, k), threads) -> the network's outputs, float32 (n, outputs)."""


@dataclass(frozen=True)
class PictureModel:
    """shape: (height, width, channels) of the pictures. numbers: columns beside them. at_once: rows of a training batch that memory
    held. quick: answers like the network, from what is known of these pictures already; only of a model that was just fitted.
    """

    network: OnnxNetwork
    shape: tuple[int, int, int]
    numbers: int
    outputs: int
    target: NumberTarget | None
    at_once: int
    quick: Answers | None = field(default=None, repr=False, compare=False)

    def predict(self, x: Encoded, threads: int = 1) -> np.ndarray:
        if self.quick is not None and len(x):
            return prediction(self.quick(pictures_of(x), x.numbers.astype(np.float32), threads), self.target)
        out = np.empty((len(x), self.outputs), dtype=np.float32)
        for first in range(0, len(x), self.network.at_once):
            part = slice(first, first + self.network.at_once)
            inputs = {"pictures": stacked(pictures_of(x)[part], self.shape)}
            if self.numbers:
                inputs["numbers"] = x.numbers[part].astype(np.float32)
            out[part] = self.network.run(inputs, threads)
        return prediction(out, self.target)

    def save(self, folder: Path) -> None:
        stored = {
            "shape": self.shape,
            "numbers": self.numbers,
            "outputs": self.outputs,
            "atOnce": self.at_once,
            "predictedAtOnce": self.network.at_once,
        }
        (folder / _FILE).write_text(json.dumps(stored), encoding="utf-8")
        self.network.save(folder)
        save_target(self.target, folder)


def load_picture_model(folder: Path) -> PictureModel:
    """Read what `PictureModel.save` wrote.

    Raises:
        BundleError: absent or damaged.
    """
    try:
        stored = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        height, width, channels = (int(v) for v in stored["shape"])
        names = ("numbers", "outputs", "atOnce", "predictedAtOnce")
        numbers, outputs, at_once, predicted_at_once = (int(stored[name]) for name in names)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{folder / _FILE} cannot be read: {error!r}") from error
    shape = (height, width, channels)
    inputs = {"pictures": shape} | ({"numbers": (numbers,)} if numbers else {})
    network = load_network(folder, inputs, outputs, at_once=max(1, predicted_at_once))
    return PictureModel(network, shape, numbers, outputs, load_target(folder), at_once)


def picture_shape(schema: Schema) -> tuple[int, int, int]:
    """(height, width, channels) of the pictures in the table's only image column."""
    (column,) = (c for c in schema.features if c.type is ColumnType.IMAGE)
    return int(column.height or 1), int(column.width or 1), int(column.channels or 1)


def pictures_of(x: Encoded) -> np.ndarray:
    """The pictures of the only image column: object (n,) of uint8 (height, width, channels), None where there is none."""
    assert x.images is not None
    pictures: np.ndarray = x.images[:, 0]
    return pictures


def stacked(pictures: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """uint8 (n, height, width, channels); a missing picture is black."""
    out = np.zeros((len(pictures), *shape), dtype=np.uint8)
    for k, picture in enumerate(pictures):
        if picture is not None:
            out[k] = picture
    return out
