"""TabM (Gorishniy et al. 2024, arXiv:2410.24210): one perceptron that is an ensemble, as its members share the weights.

Each member has its own scales of a layer's inputs and outputs, its own biases and its own head, and is trained by its own
loss; the prediction is the members' mean. Numbers enter piecewise linearly (Gorishniy et al. 2022, arXiv:2203.05556), few
levels one-hot, many as a learned embedding. `torch_tabm` trains and is imported only in `fit`; here is what it trains
(`forward`, written once for both libraries), and the fitted model, which needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features import Encoded, Features, Recipe, fit_features
from kubeautoml_trainer.features.numbers import SAMPLE
from kubeautoml_trainer.models.base import DataShape, FitContext
from kubeautoml_trainer.models.blocks import in_blocks
from kubeautoml_trainer.models.numpy_network import load_network, per_column, save_network
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.space import Choice, Float, Int, Parameters, Space
from kubeautoml_trainer.models.target import NumberTarget, standard_target

_STEM = "tabm"  # of its files
_VALUES_AT_ONCE = 250_000  # of a layer in prediction: 1 MB, which stays in the processor's cache
_ONE_HOT_LEVELS = 30  # up to here a category is one-hot, beyond it is embedded; a guess
_EMBEDDING = 8  # of a category
_EMBEDDED_COLUMNS = 200  # beyond this many numbers they enter as they are; a guess
_LEAST_ROWS = 150
_MOST_ROWS_SLOW, _MOST_COLUMNS_SLOW = 100_000, 500  # without an accelerator; a guess

DEFAULTS: Parameters = {
    "members": 32,
    "layers": 3,
    "width": 512,
    "dropout": 0.1,
    "learning_rate": 0.002,
    "weight_decay": 0.0003,
    "bins": 48,
    "embedding": 16,
    "epochs": 200,
}


@dataclass(frozen=True)
class Architecture:
    """What the network is made of, apart from its weights.

    embedding: numbers that one input number becomes; 0 where it enters as it is. sizes: codes a category column may have.
    embedded: whether the column gets a learned embedding or is one-hot.
    """

    members: int
    numbers: int
    embedding: int
    sizes: tuple[int, ...]
    embedded: tuple[bool, ...]
    layers: int
    width: int
    outputs: int

    @property
    def pieces(self) -> tuple[int, ...]:
        """Width of the first layer's input by column of the data."""
        tables = (_EMBEDDING if e else s for e, s in zip(self.embedded, self.sizes, strict=True))
        return (*[max(1, self.embedding)] * self.numbers, *tables)


@dataclass(frozen=True)
class Operations:
    """What `forward` needs of an array library beyond operators and indexing."""

    clip: Callable[[Any, Any, Any], Any]
    """(values, lows, highs): the middle one of each."""
    per_column: Callable[[Any, Any], Any]
    """(n, k, a), (k, a, b) -> (n, k, b): a matrix product for each k."""
    per_member: Callable[[Any, Any], Any]
    """(k, n, a), (k, a, b) -> (k, n, b): the same, members first."""
    concatenate: Callable[..., Any]
    relu: Callable[[Any], Any]


def forward(
    ops: Operations,
    net: Architecture,
    w: Mapping[str, Any],
    numbers: Any,
    codes: Any,
    drop: Callable[[Any], Any] = lambda h: h,
) -> Any:
    """Run all members in one pass.

    Args:
        w: weights by name, as `torch_tabm.initial_weights` makes them.
        numbers: float32 (n, numbers). codes: integers (n, columns).
        drop: applied to each hidden layer; dropout while training.

    Returns:
        float32 (members, n, outputs): logits, or the encoded number or its quantiles.
    """
    parts = [numbers]
    if net.embedding:
        pieces = ops.clip((numbers[:, :, None] - w["left"]) * w["slope"], w["low"], w["high"])
        line = numbers[:, :, None] * w["line"] + w["line_bias"]
        parts = [(line + ops.per_column(pieces, w["bend"])).reshape(len(numbers), -1)]
    parts += [w[f"table{c}"][codes[:, c]] for c in range(len(net.sizes))]
    h = ops.concatenate(parts, 1)[None]
    for layer in range(net.layers):
        scaled = h * w[f"scale_in{layer}"][:, None]
        z = (scaled.reshape(-1, scaled.shape[2]) @ w[f"weight{layer}"]).reshape(net.members, len(numbers), -1)
        h = drop(ops.relu(z * w[f"scale_out{layer}"][:, None] + w[f"bias{layer}"][:, None]))
    return ops.per_member(h, w["head"]) + w["head_bias"][:, None]


NUMPY = Operations(
    clip=lambda x, low, high: np.minimum(np.maximum(x, low), high),
    per_column=per_column,
    per_member=np.matmul,
    concatenate=np.concatenate,
    relu=lambda x: np.maximum(x, np.float32(0)),
)


def pieces_of(values: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cut each column at its quantiles, for an encoding by how far a number reaches into each bin. Of many rows every
    so-manieth is looked at.

    Args:
        values: float (n, k), without NaN.
        bins: at most so many a column; fewer where values repeat.

    Returns:
        left, slope, low, high: float32 (k, bins used) each, so that clip((x - left) * slope, low, high) is 0 before a bin, 1
        behind it and rises in it. The first bin has no lower bound and the last no upper one; bins a column has not are 0.

    >>> left, slope, low, high = pieces_of(np.array([[0.0], [1.0], [2.0], [4.0]]), bins=2)
    >>> np.clip((3.0 - left) * slope, low, high).round(2).tolist()
    [[1.0, 0.6]]
    """
    values = values[:: max(1, len(values) // SAMPLE)]
    quantiles = np.quantile(values, np.linspace(0, 1, min(bins, max(1, len(values) - 1)) + 1), axis=0)
    edges = [np.unique(column.astype(np.float32)) for column in quantiles.T]
    most = max((len(e) - 1 for e in edges), default=0)
    left, slope, low, high = np.zeros((4, len(edges), max(1, most)), dtype=np.float32)
    for k, e in enumerate(edges):
        used = len(e) - 1
        if used:  # a constant column says nothing
            left[k, :used], slope[k, :used] = e[:-1], 1 / np.diff(e)
            high[k, :used] = 1
            low[k, 0], high[k, used - 1] = -np.inf, np.inf
    return left, slope, low, high


@dataclass(frozen=True)
class TabMModel:
    """Weights and what they mean; predicts with numpy, so neither torch nor a GPU is needed."""

    net: Architecture
    weights: Mapping[str, np.ndarray]
    target: NumberTarget | None

    def predict(self, x: Encoded, threads: int = 1) -> np.ndarray:
        numbers = x.numbers.astype(np.float32)
        widest = max(self.net.width, sum(self.net.pieces), 1)
        block = max(1, _VALUES_AT_ONCE // (self.net.members * widest))
        out = np.empty((len(x), self.net.outputs), dtype=np.float32)

        def answer(part: slice) -> None:
            said = forward(NUMPY, self.net, self.weights, numbers[part], x.codes[part])
            out[part] = members_mean(said, self.target is None)

        in_blocks(len(x), block, threads, answer)
        return decoded(out, self.target)

    def save(self, folder: Path) -> None:
        save_network(folder, _STEM, self.net, self.weights, self.target)


def members_mean(out: np.ndarray, has_classes: bool) -> np.ndarray:
    """float32 (members, n, outputs) of `forward` -> (n, outputs): the mean of probabilities or of encoded numbers."""
    if has_classes:
        out = np.exp(out - out.max(axis=2, keepdims=True))
        out = out / out.sum(axis=2, keepdims=True)
    return np.asarray(out.mean(axis=0))


def decoded(mean: np.ndarray, target: NumberTarget | None) -> np.ndarray:
    """Probabilities as they are; numbers in the target's own unit, quantiles in order."""
    if target is None:
        return mean
    return np.sort(np.hstack([target.decode(column) for column in mean.T]), axis=1)


class TabM:
    """An ensemble of perceptrons with shared weights."""

    name = "TabM"
    interpretable = False
    relative_cost = 15.0
    accelerated_cost = 3.0  # one H200 beside LightGBM on one core, 500 to 30,000 rows of 20 columns: 1.4 to 9.5
    rounds_parameter = "epochs"

    def fits(self, shape: DataShape) -> bool:
        """Too few rows teach it nothing (on the 155 of a fold of wine it is still twice as good as `NeuralNetwork`); without an
        accelerator many rows or columns take too long.
        """
        is_feasible = shape.rows <= _MOST_ROWS_SLOW and shape.width <= _MOST_COLUMNS_SLOW
        return shape.rows >= _LEAST_ROWS and (shape.accelerated or is_feasible)

    def space(self, shape: DataShape) -> Space:
        """TabArena's (Erickson et al. 2025, arXiv:2506.16791); narrower networks of fewer members without an
        accelerator.
        """
        fast = shape.accelerated
        return {
            "learning_rate": Float(3e-4, 5e-3, log=True),
            "weight_decay": Float(1e-4, 0.1, log=True),
            "layers": Int(2, 4) if fast else Int(1, 3),
            "width": Int(128, 768, step=64) if fast else Int(64, 256, step=64),
            "members": Choice((16, 32)) if fast else Choice((8, 16)),
            "dropout": Float(0.0, 0.5),
            "embedding": Int(8, 32, step=4) if fast else Int(4, 16, step=4),
            "bins": Int(2, 128, log=True) if fast else Int(2, 64, log=True),
        }

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        """With an accelerator the paper's own network, early; else small ones, behind the first of the trees.

        Measured on Titanic, fair, hr, wine, Boston and apartments (a CPU core, the folds pooled): the small one beats
        `NeuralNetwork`'s short entry on each, in one to two times its time, and their mean beats both on all but wine; 16
        members or 128 units are no better there.
        """
        if shape.accelerated:
            return ((4, {}), (13, {"learning_rate": 0.001, "width": 256, "layers": 4, "dropout": 0.2}))
        small: Parameters = {"members": 8, "layers": 2, "width": 64, "bins": 16, "embedding": 8}
        return (
            (8, {**small, "learning_rate": 0.004}),
            (14, {**small, "members": 16, "width": 128, "bins": 32, "learning_rate": 0.002}),
        )

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        from kubeautoml_trainer.models import torch_tabm

        features, x = fit_features(
            Recipe(scaling="robust", categories="codes", cyclic=True), train, schema, context.seed
        )
        target = standard_target(train, schema, context.metric, bounded=True)
        settings = {**DEFAULTS, **parameters}
        net = _architecture(features, x, settings, context.task.outputs)
        seen = None if valid is None else features.transform(valid.frame)
        weights, epoch = torch_tabm.train(net, settings, x, train, seen, valid, target, context)
        return FittedPipeline(self.name, dict(parameters), epoch, features, TabMModel(net, weights, target))

    def load(self, folder: Path) -> TabMModel:
        return TabMModel(*load_network(folder, _STEM, Architecture))


def _architecture(features: Features, x: Encoded, settings: Mapping[str, Any], outputs: int) -> Architecture:
    levels = [len(column.levels) for column in features.levels]
    numbers = x.numbers.shape[1]
    return Architecture(
        members=int(settings["members"]),
        numbers=numbers,
        embedding=int(settings["embedding"]) if 0 < numbers <= _EMBEDDED_COLUMNS else 0,
        sizes=tuple(n + 2 for n in levels),
        embedded=tuple(n > _ONE_HOT_LEVELS for n in levels),
        layers=int(settings["layers"]),
        width=int(settings["width"]),
        outputs=outputs,
    )
