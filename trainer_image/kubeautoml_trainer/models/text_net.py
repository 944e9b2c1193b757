"""Small networks for texts, trained from scratch: the mean of learned vectors of terms, and convolutions over characters.

`bag` is fastText's idea (Joulin et al. 2017, arXiv:1607.01759) with one hidden layer: each word, pair of words and run of characters has
a vector, and a text is their mean by TF-IDF; it predicts with numpy. `convolution` reads the first characters of a text one by one
(Kim 2014, arXiv:1408.5882, on characters, so that it knows no language); it predicts with onnxruntime. `torch_text_net` trains both and
is imported only in `fit`. Other columns of the table come in as numbers beside the text's vector.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features import Encoded, Recipe, fit_features
from kubeautoml_trainer.models.base import DataShape, FitContext, FitTimeout
from kubeautoml_trainer.models.linear import some_rows
from kubeautoml_trainer.models.neural_network import prediction
from kubeautoml_trainer.models.onnx_network import OnnxNetwork, load_network
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.space import Choice, Float, Int, Parameters, Space
from kubeautoml_trainer.models.target import NumberTarget, load_target, save_target, standard_target

_ARRAYS, _FILE = "text_net.safetensors", "text_net.json"
_MAX_ROWS = 100_000  # more take minutes an epoch; a guess
_MOST_TERMS = 30_000  # that have a vector: 8 MB of them
_TERMS_OF_TEXT = 256  # of one text, those that weigh most
_CHARACTERS = 256  # of one text that convolutions read
_ALPHABET = 2_000  # characters that have a vector of their own; the rest share one
_UNKNOWN = 1  # code of a character without one; 0 stands behind the end
_BLOCK = 1_024  # rows predicted at once

DEFAULTS: Parameters = {
    "kind": "bag",
    "width": 64,
    "dropout": 0.3,
    "epochs": 10,
    "batch_size": 64,
    "learning_rate": 0.01,
    "weight_decay": 0.01,
}


@dataclass(frozen=True)
class BagModel:
    """vectors: float32 (terms, width). hidden, out: float32 weights and biases of two layers, the first of which sees the text's vector,
    then the numbers.
    """

    vectors: np.ndarray
    hidden: np.ndarray
    hidden_bias: np.ndarray
    out: np.ndarray
    out_bias: np.ndarray
    target: NumberTarget | None

    def predict(self, x: Encoded, threads: int = 1) -> np.ndarray:
        bags = heaviest(x.sparse, _TERMS_OF_TEXT)
        numbers = x.numbers.astype(np.float32)
        h = np.hstack([np.asarray(bags @ self.vectors, dtype=np.float32), numbers])
        h = np.maximum(h @ self.hidden + self.hidden_bias, 0)
        return prediction(np.asarray(h @ self.out + self.out_bias, dtype=np.float32), self.target).astype(np.float32)

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        names = ("vectors", "hidden", "hidden_bias", "out", "out_bias")
        save_file({name: np.ascontiguousarray(getattr(self, name)) for name in names}, str(folder / _ARRAYS))
        save_target(self.target, folder)


@dataclass(frozen=True)
class ConvolutionModel:
    """alphabet: characters that have a vector, by code from 2. characters: that are read of a text. numbers: columns beside it."""

    network: OnnxNetwork
    alphabet: str
    characters: int
    numbers: int
    outputs: int
    target: NumberTarget | None

    def predict(self, x: Encoded, threads: int = 1) -> np.ndarray:
        out = np.empty((len(x), self.outputs), dtype=np.float32)
        for first in range(0, len(x), _BLOCK):
            part = slice(first, first + _BLOCK)
            inputs = {"codes": character_codes(texts_of(x)[part], self.alphabet, self.characters)}
            if self.numbers:
                inputs["numbers"] = x.numbers[part].astype(np.float32)
            out[part] = self.network.run(inputs, threads)
        return prediction(out, self.target).astype(np.float32)

    def save(self, folder: Path) -> None:
        stored = {
            "alphabet": self.alphabet,
            "characters": self.characters,
            "numbers": self.numbers,
            "outputs": self.outputs,
        }
        (folder / _FILE).write_text(json.dumps(stored, ensure_ascii=False), encoding="utf-8")
        self.network.save(folder)
        save_target(self.target, folder)


class TextNet:
    """Networks for texts."""

    name = "TextNet"
    interpretable = False
    relative_cost = 10.0
    rounds_parameter = "epochs"

    def fits(self, shape: DataShape) -> bool:
        return bool(shape.texts) and not shape.quantiles

    def space(self, shape: DataShape) -> Space:
        return {
            "kind": Choice(("bag", "convolution")),
            "width": Int(16, 128, log=True),
            "dropout": Float(0.0, 0.6),
            "epochs": Int(4, 30, log=True),
            "batch_size": Choice((32, 64, 128)),
            "learning_rate": Float(0.001, 0.03, log=True),
            "weight_decay": Float(0.0005, 0.1, log=True),
        }

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        return ((8, {"kind": "bag"}), (13, {"kind": "convolution", "learning_rate": 0.004}))

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        from kubeautoml_trainer.models import torch_text_net

        settings: dict[str, Any] = {**DEFAULTS, **parameters}
        is_bag = settings["kind"] == "bag"
        train = some_rows(train, schema, context.seed, _MAX_ROWS, True)
        recipe = Recipe(
            scaling="standard",
            categories="onehot",
            max_levels=100,
            text="sparse" if is_bag else "raw",
            terms="both",
            most_terms=_MOST_TERMS,
            cyclic=True,
        )
        target = standard_target(train, schema, context.metric, bounded=True)
        try:
            features, x = fit_features(recipe, train, schema, context.seed, context.deadline)
            if is_bag and x.sparse is not None:
                judged = None
                if valid is not None:
                    seen = features.transform(valid.frame)
                    judged = torch_text_net.bags(heaviest(seen.sparse, _TERMS_OF_TEXT), seen.numbers), valid
                learned = torch_text_net.bags(heaviest(x.sparse, _TERMS_OF_TEXT), x.numbers), train
                arrays, trained = torch_text_net.fit_bag(settings, x.sparse.shape[1], learned, judged, target, context)
                bag = BagModel(**arrays, target=target)
                return FittedPipeline(self.name, dict(parameters), trained.epoch, features, bag)
            texts = texts_of(x)
            alphabet, most = alphabet_of(texts), _most_characters(texts)
            judged = None
            if valid is not None:
                seen = features.transform(valid.frame)
                codes = character_codes(texts_of(seen), alphabet, most)
                judged = torch_text_net.sequences(codes, seen.numbers), valid
            learned = torch_text_net.sequences(character_codes(texts, alphabet, most), x.numbers), train
            network, trained = torch_text_net.fit_convolution(
                settings, len(alphabet) + 2, learned, judged, target, context
            )
        except FitTimeout as error:
            raise FitTimeout(f"{self.name}: {str(error).removeprefix(f'{self.name}: ')}") from error
        outputs, k = context.task.outputs, x.numbers.shape[1]
        model = ConvolutionModel(OnnxNetwork(network), alphabet, most, k, outputs, target)
        return FittedPipeline(self.name, dict(parameters), trained.epoch, features, model)

    def load(self, folder: Path) -> BagModel | ConvolutionModel:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            if (folder / _ARRAYS).exists():
                return BagModel(**load_file(str(folder / _ARRAYS)), target=load_target(folder))
            stored = json.loads((folder / _FILE).read_text(encoding="utf-8"))
            numbers, most, outputs = int(stored["numbers"]), int(stored["characters"]), int(stored["outputs"])
            inputs = {"codes": (most,), **({"numbers": (numbers,)} if numbers else {})}
            network = load_network(folder, inputs, outputs)
            return ConvolutionModel(network, str(stored["alphabet"]), most, numbers, outputs, load_target(folder))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise BundleError(
                f"{folder / _FILE} cannot be read: {error!r}; the model is damaged, train it again"
            ) from error


def heaviest(matrix: Any, most: int) -> Any:
    """The `most` greatest entries of each row of a scipy CSR matrix, the others left out."""
    from scipy import sparse

    if matrix is None:
        return None
    if not matrix.nnz or int(np.diff(matrix.indptr).max()) <= most:
        return matrix
    kept = []
    for a, b in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        places = np.arange(a, b)
        if b - a > most:
            places = np.sort(places[np.argsort(-matrix.data[a:b], kind="stable")[:most]])
        kept.append(places)
    every = np.concatenate(kept)
    indptr = np.concatenate([[0], np.cumsum([len(k) for k in kept])])
    return sparse.csr_matrix((matrix.data[every], matrix.indices[every], indptr), shape=matrix.shape)


def texts_of(x: Encoded) -> list[str]:
    """Of each row its texts, one below the other."""
    if x.texts is None or not x.texts.shape[1]:
        return [""] * len(x)
    return ["\n".join(v for v in row if v) for row in x.texts]


def alphabet_of(texts: Iterable[str]) -> str:
    """The characters that occur most, at least twice, in lower case; by code point."""
    counts = Counter(c for text in texts for c in text[:_CHARACTERS].casefold())
    ranked = sorted((c for c in counts if counts[c] > 1), key=lambda c: (-counts[c], c))
    return "".join(sorted(ranked[:_ALPHABET]))


def character_codes(texts: list[str], alphabet: str, most: int) -> np.ndarray:
    """int64 (n, most): code of each character, 0 behind the end.

    >>> character_codes(["Ab?", ""], "ab", 4).tolist()
    [[2, 3, 1, 0], [0, 0, 0, 0]]
    """
    code = {c: k + 2 for k, c in enumerate(alphabet)}
    out = np.zeros((len(texts), most), dtype=np.int64)
    for row, text in enumerate(texts):
        found = [code.get(c, _UNKNOWN) for c in text[:most].casefold()[:most]]
        out[row, : len(found)] = found
    return out


def _most_characters(texts: list[str]) -> int:
    """As many as nearly all texts have; a text of few needs no wide network."""
    lengths = np.array([len(t) for t in texts] or [0])
    return int(np.clip(np.quantile(lengths, 0.98), 8, _CHARACTERS))
