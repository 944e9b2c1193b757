"""The fitted form of a fine-tuned text encoder: tokens to outputs in one ONNX file, beside its tokenizer; predicts without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.features import Encoded
from kubeautoml_trainer.features.tokens import TOKENIZER, Tokens, by_length
from kubeautoml_trainer.models.neural_network import prediction
from kubeautoml_trainer.models.onnx_network import OnnxNetwork, load_network
from kubeautoml_trainer.models.target import NumberTarget, load_target, save_target
from kubeautoml_trainer.models.text_net import texts_of

FILE = "tuned_text.json"
TOKENS = "tokens"
"""Name of the network's free axis."""
_CALL_TOKENS = 1_024  # of one call; more are no faster on a CPU, and take memory
_EMPTY = np.zeros(1, dtype=np.int64)  # for a text without a token


@dataclass(frozen=True)
class TunedTextModel:
    """network: "ids" int64 (n, tokens), none of them padding, and "numbers" float32 (n, numbers), where there are some -> outputs.

    tokenizer: the bytes of tokenizer.json, by which `tokens` cuts. numbers: columns beside the text.
    """

    network: OnnxNetwork
    tokens: Tokens
    tokenizer: bytes
    numbers: int
    outputs: int
    target: NumberTarget | None

    def predict(self, x: Encoded, threads: int = 1) -> np.ndarray:
        out = np.empty((len(x), self.outputs), dtype=np.float32)
        ids = token_ids(self.tokens, x)
        for length, places in by_length(ids):
            room = max(1, _CALL_TOKENS // length)
            for first in range(0, len(places), room):
                part = places[first : first + room]
                inputs = {"ids": np.stack([ids[k] for k in part])}
                if self.numbers:
                    inputs["numbers"] = x.numbers[part].astype(np.float32)
                out[part] = self.network.run(inputs, threads)
        return prediction(out, self.target).astype(np.float32)

    def save(self, folder: Path) -> None:
        stored = {"maxTokens": self.tokens.most, "numbers": self.numbers, "outputs": self.outputs}
        (folder / FILE).write_text(json.dumps(stored), encoding="utf-8")
        (folder / TOKENIZER).write_bytes(self.tokenizer)
        self.network.save(folder)
        save_target(self.target, folder)


def load_tuned(folder: Path) -> TunedTextModel:
    """Read what `TunedTextModel.save` wrote.

    Raises:
        BundleError: absent or damaged.
    """
    try:
        stored = json.loads((folder / FILE).read_text(encoding="utf-8"))
        most, numbers, outputs = int(stored["maxTokens"]), int(stored["numbers"]), int(stored["outputs"])
        tokenizer = (folder / TOKENIZER).read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{folder / FILE} cannot be read: {error!r}; the model is damaged, train it again") from error
    tokens = Tokens(folder / TOKENIZER, most)
    tokens.open()  # the folder may be gone when the first text comes
    inputs: dict[str, tuple[int | str, ...]] = {"ids": (TOKENS,)} | ({"numbers": (numbers,)} if numbers else {})
    network = load_network(folder, inputs, outputs)
    return TunedTextModel(network, tokens, tokenizer, numbers, outputs, load_target(folder))


def token_ids(tokens: Tokens, x: Encoded) -> list[np.ndarray]:
    """Of each row the tokens of its texts, one below the other: int64 (tokens,), at least one."""
    return [ids if len(ids) else _EMPTY for ids in tokens.of(texts_of(x))]
