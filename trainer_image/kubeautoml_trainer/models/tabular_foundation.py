"""A slot for pretrained tabular models (prior-fitted networks): the training rows are the input of a transformer, and a fit
only chooses and scales them.

Takes part only where a job names weights (`spec.search.pretrained`); `in_context` says what they must be. A fitted model
holds a copy of the weights and the rows, and predicts with numpy alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kubeautoml.api.errors import BundleError, UsageError
from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features import Encoded, Recipe, fit_features
from kubeautoml_trainer.models.base import DataShape, FitContext, FitTimeout
from kubeautoml_trainer.models.blocks import in_blocks
from kubeautoml_trainer.models.in_context import NUMPY, Config, Network, answer, load_network, remember
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.relevance import relevance
from kubeautoml_trainer.models.space import Choice, Int, Parameters, Space
from kubeautoml_trainer.models.target import NumberTarget, load_target, save_target, standard_target
from kubeautoml_trainer.tasks.metrics import weights_or_ones

_ARRAYS, _FILE = "foundation.safetensors", "foundation.json"
_BLOCK_VALUES = 8_000_000  # of attention at once, 32 MB
_FAR = 10.0  # deviations beyond which a value is only far away; a guess
_PROBE = 64  # rows to learn from, and to predict, that tell how long more will take
_MOST_ROWS = 20  # times the rows that can be learned from; beyond, too much goes to waste; a guess

DEFAULTS: Parameters = {"views": 1, "scaling": "quantile"}

Answers = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class FoundationModel:
    """Rows to learn from, and the network that does.

    columns: intp (used,), those kept of the numbers, then the codes. center, scale: float64 (used,). x: float32 (n, used),
    scaled. y: float32 (n,), class indices or encoded numbers. views: how many orders of columns and classes are averaged.
    on_device: makes a function that answers, in place of numpy's; None on the CPU.
    """

    network: Network
    columns: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    x: np.ndarray
    y: np.ndarray
    views: int
    outputs: int
    target: NumberTarget | None
    on_device: Callable[[Network, np.ndarray, np.ndarray, str], Answers] | None = field(
        default=None, repr=False, compare=False
    )

    def predict(self, x: Encoded, threads: int = 1) -> np.ndarray:
        scaled = scaled_rows(_matrix(x)[:, self.columns], self.center, self.scale)
        block = max(1, _BLOCK_VALUES // max(1, self.network.config.heads * len(self.x)))
        answers, out = self._answers, np.empty((len(scaled), self.outputs), dtype=np.float32)

        def act(part: slice) -> None:
            out[part] = self._predict(scaled[part], answers)

        in_blocks(len(scaled), block, threads if self.on_device is None else 1, act)
        return out

    def _predict(self, rows: np.ndarray, readers: Sequence[Answers]) -> np.ndarray:
        total = np.zeros((len(rows), self.outputs), dtype=np.float64)
        for view, answers in enumerate(readers):
            out = answers(self._input(rows, view))
            if self.target is None:
                out = out[:, (np.arange(self.outputs) + view) % self.outputs].astype(np.float64)
                e = np.exp(out - out.max(axis=1, keepdims=True))
                out = e / e.sum(axis=1, keepdims=True)
            total += out
        mean = (total / self.views).astype(np.float32)
        return np.asarray(mean) if self.target is None else self.target.decode(mean[:, 0])

    @cached_property
    def _answers(self) -> list[Answers]:
        """Of each view what answers; made once, as it reads all rows to learn from."""
        return [self._reader(view) for view in range(self.views)]

    def _reader(self, view: int) -> Answers:
        x, config = self._input(self.x, view), self.network.config
        is_number = self.target is not None
        y = self.y if is_number else ((self.y + view) % self.outputs).astype(np.float32)
        head = "number" if is_number else "class"
        if self.on_device is not None:
            return self.on_device(self.network, x, y, head)
        memory = remember(NUMPY, config, self.network.weights, x, y)
        return lambda rows: np.asarray(answer(NUMPY, config, self.network.weights, memory, rows, head))

    def _input(self, rows: np.ndarray, view: int) -> np.ndarray:
        """float32 (n, used) -> (n, features) in the view's order of columns, the rest 0."""
        used, features = rows.shape[1], self.network.config.features
        out = np.zeros((len(rows), features), dtype=np.float32)
        if used:
            order = np.random.default_rng(view).permutation(used) if view else np.arange(used)
            out[:, :used] = rows[:, order] * np.float32(features / used)
        return np.asarray(out)

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        self.network.save(folder)
        arrays = {"columns": self.columns.astype(np.int64), "center": self.center, "scale": self.scale}
        save_file(arrays | {"x": self.x, "y": self.y}, str(folder / _ARRAYS))
        (folder / _FILE).write_text(json.dumps({"views": self.views, "outputs": self.outputs}), encoding="utf-8")
        save_target(self.target, folder)


def scaled_rows(values: np.ndarray, center: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """float32 (n, k), within ten deviations."""
    return np.ascontiguousarray(np.clip((values - center) * scale, -_FAR, _FAR), dtype=np.float32)


def _matrix(x: Encoded) -> np.ndarray:
    return np.hstack([x.numbers, x.codes.astype(np.float64)])


class TabularFoundation:
    """Bound to weights, or not: then it fits no data, but loads what was fitted elsewhere."""

    name = "TabularFoundation"
    interpretable = False
    relative_cost = 15.0

    def __init__(self, network: Network | None = None) -> None:
        self.network = network

    def bound(self, folder: Path) -> TabularFoundation:
        """With the weights of a folder.

        Raises:
            BundleError: they are not what `in_context` can run.
        """
        if not folder.is_dir():
            raise BundleError("the weights must be a folder, with a URI that ends in /")
        return TabularFoundation(load_network(folder))

    def fits(self, shape: DataShape) -> bool:
        """Whether the weights were made for such data."""
        if self.network is None or shape.quantiles or shape.rows > _MOST_ROWS * self.network.config.rows:
            return False
        config = self.network.config
        return bool(config.numbers) if _is_number(shape) else shape.outputs <= config.classes

    def space(self, shape: DataShape) -> Space:
        return {"views": Int(1, 4), "scaling": Choice(("quantile", "standard"))}

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        """Early with an accelerator, else behind the trees: it predicts as slowly as it learns."""
        return ((4 if shape.accelerated else 10, {}), (15, {"views": 4}))

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        """Raises UsageError without weights."""
        if self.network is None:
            raise UsageError("TabularFoundation needs weights; name them in spec.search.pretrained")
        settings: dict[str, Any] = {**DEFAULTS, **parameters}
        features, x = fit_features(Recipe(scaling=settings["scaling"], categories="codes"), train, schema, context.seed)
        target = standard_target(train, schema, context.metric, bounded=True)
        matrix = _matrix(x)
        weight = weights_or_ones(train.weight, len(train))
        y = train.y.astype(np.float64) if target is None else target.encode(train.y)
        columns = _columns(matrix, y, weight, self.network.config, context, target is None)
        center, deviation = matrix[:, columns].mean(axis=0), matrix[:, columns].std(axis=0)
        scale = np.where(deviation > 0, 1 / np.where(deviation > 0, deviation, 1.0), 0.0)
        rows = drawn(weight, train.weight is not None, self.network.config.rows, context.seed)
        model = FoundationModel(
            self.network,
            columns,
            center,
            scale,
            scaled_rows(matrix[rows][:, columns], center, scale),
            y[rows].astype(np.float32),
            int(settings["views"]),
            context.task.outputs,
            target,
            _on_device(),
        )
        asked = len(train) // 4 if valid is None else 2 * len(valid)
        model = _in_time(model, x, asked, context.deadline)
        return FittedPipeline(self.name, dict(parameters), None, features, model)

    def load(self, folder: Path) -> FoundationModel:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        network = load_network(folder)
        try:
            stored, arrays = json.loads((folder / _FILE).read_text(encoding="utf-8")), load_file(str(folder / _ARRAYS))
            return FoundationModel(
                network,
                arrays["columns"].astype(np.intp),
                arrays["center"],
                arrays["scale"],
                arrays["x"],
                arrays["y"],
                stored["views"],
                stored["outputs"],
                load_target(folder),
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise BundleError(f"{folder / _ARRAYS} cannot be read: {error!r}") from error


def _is_number(shape: DataShape) -> bool:
    return not shape.task.is_classification


def _on_device() -> Callable[[Network, np.ndarray, np.ndarray, str], Answers] | None:
    from kubeautoml_trainer.models import torch_in_context

    return torch_in_context.on_device if torch_in_context.has_device() else None


def _columns(
    matrix: np.ndarray, y: np.ndarray, weight: np.ndarray, config: Config, context: FitContext, is_classes: bool
) -> np.ndarray:
    """Positions of the columns that the network has room for: those that say most about the target; intp, rising."""
    if matrix.shape[1] <= config.features:
        return np.arange(matrix.shape[1])
    told = relevance(
        matrix.astype(np.float32), y, weight, classes=is_classes, seed=context.seed, deadline=context.deadline
    )
    return np.sort(np.argsort(-told, kind="stable")[: config.features])


def drawn(weight: np.ndarray, is_weighted: bool, most: int, seed: int) -> np.ndarray:
    """Rows to learn from, intp, at most `most`: all where there are few, else drawn; in proportion to their weights, so that a
    heavy row may come twice, as the network knows no weights.
    """
    count = min(most, len(weight))
    if not is_weighted and count == len(weight):
        return np.arange(count)
    order = np.random.default_rng(seed).permutation(len(weight))
    reach = np.cumsum(weight[order])
    places = np.searchsorted(reach, (np.arange(count) + 0.5) / count * reach[-1], side="left")
    return np.sort(order[np.minimum(places, len(order) - 1)])


def _in_time(model: FoundationModel, x: Encoded, asked: int, deadline: float) -> FoundationModel:
    """The model with as many rows to learn from as leave time to predict `asked` rows.

    Raises:
        FitTimeout: not even a few.
    """
    few = min(_PROBE, len(model.x))
    tried = _with_rows(model, few)
    if time.monotonic() > deadline:
        raise _timeout()
    began = time.monotonic()
    tried.predict(Encoded(x.numbers[:few], x.codes[:few]))
    now = time.monotonic()
    a_row = (now - began) / (2 * few)  # read or predicted, with a few rows to look at

    def seconds(count: int) -> float:
        return (count + asked) * a_row * count / few

    count = len(model.x)
    while count > few and seconds(count) > deadline - now:
        count //= 2
    if seconds(min(count, few)) > deadline - now:
        raise _timeout()
    return model if count == len(model.x) else _with_rows(model, max(count, few))


def _timeout() -> FitTimeout:
    return FitTimeout("TabularFoundation: no time for one prediction; give spec.budget.maxDurationSeconds more")


def _with_rows(model: FoundationModel, count: int) -> FoundationModel:
    """Every so-manieth row."""
    kept = np.linspace(0, len(model.x) - 1, count).round().astype(np.intp)
    return replace(model, x=model.x[kept], y=model.y[kept])
