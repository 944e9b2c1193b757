"""A multilayer perceptron after RealMLP-TD (Holzmüller et al. 2024, arXiv:2407.04491): trained by torch, predicted by
numpy.

`torch_net` trains and is imported only in `fit`; here is what it trains (`forward`, written once for both libraries),
and the fitted model, which needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features import Encoded, Features, Recipe, fit_features
from kubeautoml_trainer.models.base import DataShape, FitContext
from kubeautoml_trainer.models.blocks import in_blocks
from kubeautoml_trainer.models.numpy_network import load_network, per_column, save_network
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.space import Float, Int, Parameters, Space
from kubeautoml_trainer.models.target import NumberTarget, standard_target

_STEM = "network"  # of its files
_ROWS_A_BLOCK = 512  # rows predicted at once: their layers stay in the processor's cache
_ONE_HOT_LEVELS = 9  # up to here a category is one-hot, beyond it is embedded
_EMBEDDING = 8
_PERIODIC_COLUMNS = 256  # beyond this many numbers their periodic embedding costs more than it brings; a guess
_FEW_ROWS, _MANY_ROWS = 1_000, 20_000

# RealMLP-TD's values where the paper has them; epochs are fewer because eight folds are averaged.
DEFAULTS: Parameters = {
    "layers": 3,
    "width": 256,
    "epochs": 128,
    "batch_size": 256,
    "dropout": 0.15,
    "weight_decay": 0.02,
    "plr_sigma": 0.1,
    "scale_lr": 6.0,
    "decay_until": 1.0,  # how far the schedules of dropout and weight decay go, of their whole length
}
_LEARNING_RATE = {"classes": 0.04, "number": 0.2}


@dataclass(frozen=True)
class Architecture:
    """What the network is made of, apart from its weights.

    sizes: codes a category column may have. embedded: whether the column gets a learned embedding or is one-hot.
    """

    numbers: int
    sizes: tuple[int, ...]
    embedded: tuple[bool, ...]
    layers: int
    width: int
    outputs: int
    activation: str
    periodic: bool

    @property
    def inputs(self) -> int:
        """Width of the first layer's input."""
        tables = (_EMBEDDING if e else s for e, s in zip(self.embedded, self.sizes, strict=True))
        return self.numbers * (4 if self.periodic else 1) + sum(tables)


@dataclass(frozen=True)
class Operations:
    """What `forward` needs of an array library beyond operators and indexing."""

    cos: Callable[[Any], Any]
    per_column: Callable[[Any, Any], Any]
    """(n, k, a), (k, a, b) -> (n, k, b): a matrix product for each k."""
    concatenate: Callable[..., Any]
    selu: Callable[[Any], Any]
    mish: Callable[[Any], Any]


def forward(
    ops: Operations,
    net: Architecture,
    w: Mapping[str, Any],
    numbers: Any,
    codes: Any,
    drop: Callable[[Any], Any] = lambda h: h,
) -> Any:
    """Run the network.

    Args:
        w: weights by name, as `torch_net.initial_weights` makes them.
        numbers: float32 (n, numbers). codes: integers (n, columns).
        drop: applied to each hidden layer; dropout while training.

    Returns:
        float32 (n, outputs): logits, or the encoded number.
    """
    parts = [numbers]
    if net.periodic:  # PBLD: the number beside three linear maps of sixteen learned waves
        waves = ops.cos(6.2831855 * (numbers[:, :, None] * w["frequency"] + w["phase"]))
        parts.append((ops.per_column(waves, w["mix"]) + w["mix_bias"]).reshape(len(numbers), -1))
    parts += [w[f"table{c}"][codes[:, c]] for c in range(len(net.sizes))]
    h = ops.concatenate(parts, 1) * w["scale"]
    activate = ops.selu if net.activation == "selu" else ops.mish
    for layer in range(net.layers):
        z = (h @ w[f"weight{layer}"]) * h.shape[1] ** -0.5 + w[f"bias{layer}"]
        h = drop(z + w[f"alpha{layer}"] * (activate(z) - z))
    return (h @ w["weight_out"]) * h.shape[1] ** -0.5 + w["bias_out"]


def _selu(x: np.ndarray) -> np.ndarray:
    return np.where(
        x > 0, np.float32(1.0507009873554805) * x, np.float32(1.7580993408473766) * np.expm1(np.minimum(x, 0))
    )


def _mish(x: np.ndarray) -> np.ndarray:
    return np.asarray(x * np.tanh(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))))


NUMPY = Operations(np.cos, per_column, np.concatenate, _selu, _mish)


@dataclass(frozen=True)
class NetworkModel:
    """Weights and what they mean; predicts with numpy, so neither torch nor a GPU is needed."""

    net: Architecture
    weights: Mapping[str, np.ndarray]
    target: NumberTarget | None

    def predict(self, x: Encoded, threads: int = 1) -> np.ndarray:
        numbers = x.numbers.astype(np.float32)
        out = np.empty((len(x), self.net.outputs), dtype=np.float32)

        def answer(part: slice) -> None:
            out[part] = forward(NUMPY, self.net, self.weights, numbers[part], x.codes[part])

        in_blocks(len(x), _ROWS_A_BLOCK, threads, answer)
        return prediction(out, self.target)

    def save(self, folder: Path) -> None:
        save_network(folder, _STEM, self.net, self.weights, self.target)


def prediction(out: np.ndarray, target: NumberTarget | None) -> np.ndarray:
    """float32 (n, outputs) of what `forward` gives; quantiles, which are several outputs of one number, are put in order
    (Chernozhukov et al. 2010, arXiv:0704.3649: sorting only helps).
    """
    if target is not None:
        return np.sort(np.hstack([target.decode(column) for column in out.T]), axis=1)
    e = np.exp(out - out.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


class NeuralNetwork:
    """RealMLP-TD style perceptron."""

    name = "NeuralNetwork"
    interpretable = False
    relative_cost = 10.0
    accelerated_cost = 1.0  # one H200 beside LightGBM on one core, 500 to 30,000 rows of 20 columns: 0.7 to 2.3
    rounds_parameter = "epochs"

    def fits(self, shape: DataShape) -> bool:
        """Fewer rows than this teach a network nothing that a linear model does not know. A guess."""
        return shape.rows >= 200

    def space(self, shape: DataShape) -> Space:
        """RealMLP's, as in TabArena, around this family's default."""
        rate = Float(0.02, 0.3, log=True) if _is_number(shape) else Float(0.005, 0.15, log=True)
        return {
            "layers": Int(2, 4),
            "width": Int(128, 384, step=128),
            "learning_rate": rate,
            "dropout": Float(0.0, 0.5),
            "weight_decay": Float(0.001, 0.05, log=True),
            "plr_sigma": Float(0.01, 10.0, log=True),
            "scale_lr": Float(2.0, 10.0, log=True),
        }

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        """First two narrow and short ones, the first of them right behind LightGBM with an accelerator; last RealMLP-TD itself.

        Measured on Titanic, German credit and Boston (eight folds on one core): the short ones score like the long
        one, in a tenth of its time. Numbers need more steps than classes.
        """
        first = 2 if shape.accelerated else 5
        steps: Parameters = {"width": 128, "batch_size": 128 if shape.rows < _FEW_ROWS else 256}
        if not _is_number(shape):
            short = {**steps, "epochs": 32 if shape.rows < _MANY_ROWS else 16}
            return (
                (first, {**short, "plr_sigma": 1.0}),
                (10, {**short, "plr_sigma": 0.1}),
                (16, {"width": 256, "epochs": 256, "plr_sigma": 0.1}),
            )
        short = {**steps, "epochs": 128 if shape.rows < _FEW_ROWS else 64 if shape.rows < _MANY_ROWS else 32}
        return (
            (first, {**short, "plr_sigma": 0.1}),
            (10, {**short, "plr_sigma": 0.3, "dropout": 0.3}),
            (16, {"width": 256, "epochs": 256, "plr_sigma": 0.1}),
        )

    def cut_short(self, parameters: Parameters, rounds: int) -> Parameters:
        """For a fit that ends, cooled down, after as many epochs as were best in longer ones. Where these were over before dropout and
        weight decay began to fall, they do not fall here either.

        Measured on the whole training rows of seven sets (loss on others, four fits each, with them falling and not): digits 0.134
        0.107, anes96 1.382 1.373, diabetes 52.1 52.1 and 61.4 58.4, German credit, Titanic and breast cancer alike; where the best
        epochs came later, on Boston, 3.24 3.38 and 3.04 3.25.
        """
        planned = float({**DEFAULTS, **parameters}["epochs"])
        return {**parameters, "epochs": rounds, "decay_until": 1.0 if rounds >= 0.5 * planned else 0.5}

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        from kubeautoml_trainer.models import torch_net

        features, x = fit_features(
            Recipe(scaling="robust", categories="codes", cyclic=True), train, schema, context.seed
        )
        target = standard_target(train, schema, context.metric, bounded=True)
        settings = {
            "learning_rate": _LEARNING_RATE["classes" if target is None else "number"],
            **DEFAULTS,
            **parameters,
        }
        net = _architecture(features, x, settings, context.task.outputs, bool(schema.classes))
        seen = None if valid is None else features.transform(valid.frame)
        weights, epoch = torch_net.train(net, settings, x, train, seen, valid, target, context)
        return FittedPipeline(self.name, dict(parameters), epoch, features, NetworkModel(net, weights, target))

    def load(self, folder: Path) -> NetworkModel:
        return NetworkModel(*load_network(folder, _STEM, Architecture))


def _is_number(shape: DataShape) -> bool:
    return not shape.task.is_classification


def _architecture(
    features: Features, x: Encoded, settings: Mapping[str, Any], outputs: int, has_classes: bool
) -> Architecture:
    """Parametric SELU for classes and Mish for numbers, as RealMLP-TD."""
    levels = [len(column.levels) for column in features.levels]
    return Architecture(
        numbers=x.numbers.shape[1],
        sizes=tuple(n + 2 for n in levels),
        embedded=tuple(n > _ONE_HOT_LEVELS for n in levels),
        layers=int(settings["layers"]),
        width=int(settings["width"]),
        outputs=outputs,
        activation="selu" if has_classes else "mish",
        periodic=0 < x.numbers.shape[1] <= _PERIODIC_COLUMNS,
    )
