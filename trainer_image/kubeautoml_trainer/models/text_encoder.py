"""Pretrained encoders of texts: their numbers for a text, as they are, and a linear model on top, with or without the text's own words; or
fine-tuned, with a learning rate for each layer.

Takes part only where a job names weights (`spec.search.pretrained`): the folder of a transformers model with `config.json`,
`tokenizer.json` and `model.safetensors`. Nothing is ever fetched. The weights are turned into a network for onnxruntime once a process
(`torch_text_encoder`), and stand once in a bundle; a fine-tuned encoder is a network of its own (`torch_text_tuning`).
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.errors import BundleError, UsageError
from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features import Recipe, fit_features
from kubeautoml_trainer.features.encoders import Compute, Encoder, EncodingTimeout, encoder_named, offer
from kubeautoml_trainer.features.stored import encoders_of
from kubeautoml_trainer.features.tokens import TOKENIZER
from kubeautoml_trainer.models.base import DataShape, FitContext, FitTimeout
from kubeautoml_trainer.models.linear import most_terms, some_rows
from kubeautoml_trainer.models.linear_solver import LinearModel, load_linear, logistic, ridge
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.space import Choice, Float, Int, Parameters, Space
from kubeautoml_trainer.models.target import number_target, standard_target
from kubeautoml_trainer.models.tuned_text import FILE, TunedTextModel, load_tuned
from kubeautoml_trainer.pretrained import digest
from kubeautoml_trainer.tasks.metrics import weights_or_ones

CONFIG = "config.json"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_MAX_ROWS = 200_000  # as many as Linear takes
_FEWEST = 20  # texts to learn from, below which a fit is not worth its name
_LEFT = 0.8  # of the time until the deadline that encoding may take
_OUTPUTS_ROOM = 1_000_000  # numbers of a text times outputs above which only 64 of them are used

DEFAULTS: Parameters = {
    "tuning": "frozen",
    "C": 1.0,
    "terms": "none",
    "tuning_epochs": 4,
    "batch_size": 32,
    "head": "linear",
    "head_rate": 0.002,
    "rate_by": "given",
    "learning_rate": 0.00015,
    "layer_decay": 0.9,
    "weight_decay": 0.02,
    "dropout": 0.2,
    "smoothing": 0.05,
}


class TextEncoder:
    """Bound to weights, or not: then it fits nothing, but loads what was fitted elsewhere."""

    name = "TextEncoder"
    interpretable = False
    relative_cost = 5.0

    def __init__(self, encoder: Encoder | None = None, folder: Path | None = None) -> None:
        """folder: the weights themselves; without them nothing can be fine-tuned."""
        self.encoder, self.folder = encoder, folder

    def bound(self, folder: Path) -> TextEncoder:
        """With the weights of a folder, or those by which a pipeline that it saved in this folder reads.

        Raises:
            BundleError: they are not what `torch_text_encoder` can read.
        """
        used = encoders_of(folder) if folder.is_dir() else ()
        if used:
            return TextEncoder(encoder_named(used[0]))
        if (folder / FILE).is_file():
            raise BundleError("a fine-tuned text encoder does not hold the weights that it began with")
        check_weights(folder)
        encoder = Encoder(digest(folder), lambda: _exported(folder), lambda: _accelerated(folder))
        return TextEncoder(offer(encoder), folder)

    def fits(self, shape: DataShape) -> bool:
        return self.encoder is not None and bool(shape.texts) and not shape.quantiles

    def space(self, shape: DataShape) -> Space:
        frozen, fine = {"tuning": "frozen"}, {"tuning": "fine"}
        return {
            "tuning": Choice(("frozen", "fine")),
            "C": Float(1e-3, 1e2, log=True, when=frozen),
            "terms": Choice(("none", "both", "words"), when=frozen),
            "rate_by": Choice(("given", "test"), when=fine),
            "learning_rate": Float(0.00003, 0.001, log=True, when=fine | {"rate_by": "given"}),
            "layer_decay": Float(0.6, 1.0, when=fine),
            "tuning_epochs": Int(2, 12, when=fine),
            "batch_size": Choice((16, 32, 64), when=fine),
            "head": Choice(("linear", "hidden"), when=fine),
            "weight_decay": Float(0.001, 0.2, log=True, when=fine),
            "dropout": Float(0.0, 0.5, when=fine),
        }

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        """Behind the words, which take a second; then both side by side. Measured with MiniLM on 650 questions and 500 tweets: 1 to 12
        points more accurate than words and runs of characters.
        """
        first = 1 if 2 * shape.texts > shape.features else 3
        fine = first + (3 if shape.accelerated else 11)
        return (
            (first, {"C": 0.03}),
            (first + 2, {"C": 0.3, "terms": "both"}),
            (fine, {"tuning": "fine"}),
        )

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        """Raises UsageError without weights."""
        if self.encoder is None:
            raise UsageError("TextEncoder needs weights; name them in spec.search.pretrained")
        settings: dict[str, Any] = {**DEFAULTS, **parameters}
        if settings["tuning"] == "fine":
            return self._tuned(train, valid, schema, parameters, settings, context)
        outputs, terms = context.task.outputs, str(settings["terms"])
        train = some_rows(train, schema, context.seed, _MAX_ROWS, terms == "both")
        train = _in_time(self.encoder, train, valid, schema, context)
        recipe = Recipe(
            scaling="standard",
            categories="onehot",
            max_levels=100,
            text="none" if terms == "none" else "sparse",
            terms="both" if terms == "both" else "words",
            most_terms=most_terms(outputs),
            encoder=self.encoder.sha256,
            encoder_numbers=0 if self.encoder.width * outputs <= _OUTPUTS_ROOM else 64,
            text_statistics=False,
            cyclic=True,
        )
        try:
            features, x = fit_features(recipe, train, schema, context.seed, context.deadline)
            weight, penalty = weights_or_ones(train.weight, len(train)), 1.0 / float(settings["C"])
            if schema.classes:
                model, steps = logistic(x, train.y, weight, outputs, penalty, context.deadline)
            else:
                target = number_target(train.y, train.weight, context.metric, standardise=True, bounded=False)
                model, steps = ridge(x, target, train.y, weight, penalty, context.deadline)
        except FitTimeout as error:
            raise _too_late() from error
        return FittedPipeline(self.name, dict(parameters), steps, features, model)

    def _tuned(
        self,
        train: Rows,
        valid: Rows | None,
        schema: Schema,
        parameters: Parameters,
        settings: dict[str, Any],
        context: FitContext,
    ) -> FittedPipeline:
        """Raises UsageError where only the frozen encoder is here."""
        if self.folder is None or self.encoder is None:
            raise UsageError("TextEncoder needs its weights to be fine-tuned; name them in spec.search.pretrained")
        from kubeautoml_trainer.models.torch_text_tuning import fit

        recipe = Recipe(
            scaling="standard", categories="onehot", max_levels=100, text="raw", text_statistics=False, cyclic=True
        )
        target = standard_target(train, schema, context.metric, bounded=True)
        try:
            features, x = fit_features(recipe, train, schema, context.seed, context.deadline)
            judged = None if valid is None else (features.transform(valid.frame), valid)
            model, trained = fit(self.folder, self.encoder, settings, (x, train), judged, target, context)
        except EncodingTimeout as error:
            raise _too_late() from error
        except FitTimeout as error:
            raise FitTimeout(f"{self.name}: {str(error).removeprefix(f'{self.name}: ')}") from error
        return FittedPipeline(self.name, dict(parameters), trained.epoch, features, model)

    def load(self, folder: Path) -> LinearModel | TunedTextModel:
        return load_tuned(folder) if (folder / FILE).is_file() else load_linear(folder)


def check_weights(folder: Path) -> None:
    """Whether a folder looks like a transformers model with a tokenizer, without reading the weights.

    Raises:
        BundleError: says which file is absent or damaged, and what to do.
    """
    if not folder.is_dir():
        raise BundleError("the weights must be a folder of a transformers model, with a URI that ends in /")
    advice = "save the model and its tokenizer there with save_pretrained"
    for name in (CONFIG, TOKENIZER):
        if not (folder / name).is_file():
            raise BundleError(f"the folder of a text encoder must hold {name}, which is absent; {advice}")
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise BundleError(f"the folder of a text encoder must hold {_WEIGHTS[0]}, which is absent; {advice}")
    for name in (CONFIG, TOKENIZER):
        try:
            read = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BundleError(f"{name} must be JSON: {error}; {advice}") from error
        if name == CONFIG and not isinstance(read.get("model_type") if isinstance(read, dict) else None, str):
            raise BundleError(f"{CONFIG} must name the model_type of a transformers model; {advice}")


_EXPORTS: list[tempfile.TemporaryDirectory[str]] = []
"""Folders of this process, which go when it ends."""


def _exported(folder: Path) -> Path:
    from kubeautoml_trainer.models.torch_text_encoder import export

    made = tempfile.TemporaryDirectory(prefix="kubeautoml-encoder-")
    _EXPORTS.append(made)
    export(folder, Path(made.name))
    return Path(made.name)


def _accelerated(folder: Path) -> Compute | None:
    from kubeautoml_trainer.models.torch_text_encoder import computed_on
    from kubeautoml_trainer.models.torch_training import device_for_training

    device = device_for_training()
    return None if device.type == "cpu" else computed_on(device, folder)


def _in_time(encoder: Encoder, train: Rows, valid: Rows | None, schema: Schema, context: FitContext) -> Rows:
    """The rows whose texts can be encoded until the deadline: all, or a random sample. What is to be predicted afterwards (the rows
    that tell when to stop, and about as many more) comes first.

    Raises:
        FitTimeout: fewer than half of them.
    """
    names = [c.name for c in schema.features if c.type is ColumnType.TEXT]
    until = time.monotonic() + _LEFT * max(0.0, context.deadline - time.monotonic())
    asked = 0 if valid is None else len(valid) * len(names)
    try:
        if valid is not None:
            for name in names:
                encoder.encode(valid.frame[name].to_numpy(), until)
        order = np.random.default_rng(context.seed).permutation(len(train))
        for name in names:
            encoder.encode(train.frame[name].to_numpy()[order[:_FEWEST]], until)
    except EncodingTimeout as error:
        raise _too_late() from error
    new = sum(encoder.missing(train.frame[name].to_numpy()) for name in names)
    if not new:
        return train
    seconds = encoder.seconds_a_text or 0.0
    able = (until - time.monotonic() - asked * seconds) / max(seconds, 1e-9)
    if able >= new:
        return train
    known = len(train) - new // max(1, len(names))
    most = known + int(able / max(1, len(names)))
    # a fold that learned from few would be judged by that, and the trial given up; with more time it is asked again
    if most < max(min(_FEWEST, len(train)), len(train) // 2):
        raise _too_late()
    return train.take(np.sort(order[:most]))


def _too_late() -> FitTimeout:
    return FitTimeout(
        "TextEncoder: no time for one look at all texts; give spec.budget.maxDurationSeconds more, or a smaller encoder"
    )
