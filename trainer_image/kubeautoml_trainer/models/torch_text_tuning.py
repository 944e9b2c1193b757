"""Fine-tuning of pretrained text encoders: a head on frozen vectors first, then head and encoder together, each layer at its own rate.

The vectors of the tokens themselves stay as they are: most of them never occur in a few thousand texts, and they are half of a small
encoder.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kubeautoml_trainer.data.base import Rows
from kubeautoml_trainer.features import Encoded
from kubeautoml_trainer.features.encoders import Encoder
from kubeautoml_trainer.features.tokens import TOKENIZER
from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.models.onnx_network import OnnxNetwork
from kubeautoml_trainer.models.target import NumberTarget
from kubeautoml_trainer.models.text_net import texts_of
from kubeautoml_trainer.models.torch_head import START_SHARE, Headed, Vectors, fine_tune, fit_head
from kubeautoml_trainer.models.torch_lesson import Trained
from kubeautoml_trainer.models.torch_onnx import halved, to_onnx
from kubeautoml_trainer.models.torch_parallel import World, on_all_accelerators
from kubeautoml_trainer.models.torch_text_encoder import Pooled, read_pooled
from kubeautoml_trainer.models.torch_training import Inputs, device_for_training
from kubeautoml_trainer.models.tuned_text import TOKENS, TunedTextModel, token_ids


@dataclass(frozen=True)
class TextRows:
    """Rows as they are learned from, plain values: ids of each int64 (tokens,), numbers float32 (n, k), and the rows themselves."""

    ids: Sequence[np.ndarray]
    numbers: np.ndarray
    rows: Rows

    def on(self, device: torch.device) -> TokenRows:
        return TokenRows(self.ids, torch.as_tensor(self.numbers, device=device))


@dataclass(frozen=True)
class TokenRows:
    """The examples of a training; a batch is as wide as its longest text.

    ids: of each row int64 (tokens,). numbers: float32 (n, k), on the device.
    """

    ids: Sequence[np.ndarray]
    numbers: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def batches(self, orders: Sequence[Tensor]) -> Iterator[Inputs]:
        """int64 (b, tokens), filled up with 0; int64 (b, tokens), 1 where there is a token; float32 (b, k)."""
        for order in orders:
            some = [self.ids[k] for k in order.tolist()]
            ids = np.zeros((len(some), max(map(len, some), default=1)), dtype=np.int64)
            there = np.zeros_like(ids)
            for row, one in enumerate(some):
                ids[row, : len(one)], there[row, : len(one)] = one, 1
            device = self.numbers.device
            yield torch.as_tensor(ids, device=device), torch.as_tensor(there, device=device), self.numbers[order]


class Tuned(Headed):
    """An encoder, its vectors brought to length 1, and a head: int64 (n, tokens), where there are tokens, float (n, k) -> float
    (n, outputs).
    """

    backbone: Pooled

    def forward(self, ids: Tensor, there: Tensor | None, numbers: Tensor) -> Tensor:
        vectors = functional.normalize(self.backbone(ids, there).float(), dim=1)
        out: Tensor = self.head(vectors, numbers)
        return out


class _Whole(nn.Module):
    """For rows of as many tokens each, with or without numbers beside them."""

    def __init__(self, net: Tuned) -> None:
        super().__init__()
        self.net = net

    def forward(self, ids: Tensor, numbers: Tensor | None = None) -> Tensor:
        beside = torch.zeros(ids.shape[0], 0) if numbers is None else numbers
        out: Tensor = self.net(ids, None, beside)
        return out


def fit(
    folder: Path,
    encoder: Encoder,
    settings: Mapping[str, Any],
    learned: tuple[Encoded, Rows],
    judged: tuple[Encoded, Rows] | None,
    target: NumberTarget | None,
    context: FitContext,
) -> tuple[TunedTextModel, Trained]:
    """Train from the weights of a folder.

    Args:
        encoder: of the same weights, which knows the frozen vectors.

    Raises:
        EncodingTimeout: there was no time for one look at all texts.
        FitTimeout: the deadline came before the first step.
    """
    device = device_for_training()
    now = time.monotonic()
    deadline = now + START_SHARE * (context.deadline - now)

    def vectors(x: Encoded, rows: Rows) -> tuple[Vectors, Rows]:
        said = torch.as_tensor(encoder.encode(texts_of(x), deadline), device=device)
        return Vectors(said, torch.as_tensor(x.numbers, dtype=torch.float32, device=device)), rows

    def plain(x: Encoded, rows: Rows) -> TextRows:
        return TextRows(token_ids(encoder.tokens, x), x.numbers.astype(np.float32), rows)

    seen, held_out = vectors(*learned), None if judged is None else vectors(*judged)
    within = replace(context, deadline=deadline)
    head, _ = fit_head(settings, seen, held_out, target, within, device, is_start=True)
    net = Tuned(read_pooled(folder), head)
    net.backbone.net.get_input_embeddings().requires_grad_(False)
    examples = plain(*learned)
    arguments = (net, settings, examples, None if judged is None else plain(*judged), target)
    net, trained = on_all_accelerators(_tuned, arguments, context, sum(one.nbytes for one in examples.ids))
    numbers, outputs = examples.numbers.shape[1], context.task.outputs
    network = OnnxNetwork(_written(net, numbers))
    tokenizer = (encoder.folder / TOKENIZER).read_bytes()
    return TunedTextModel(network, encoder.tokens, tokenizer, numbers, outputs, target), trained


def _tuned(
    world: World,
    device: torch.device,
    net: Tuned,
    settings: Mapping[str, Any],
    learned: TextRows,
    judged: TextRows | None,
    target: NumberTarget | None,
    context: FitContext,
) -> tuple[Tuned, Trained]:
    """Head and encoder together."""
    net = copy.deepcopy(net)
    seen = learned.on(device), learned.rows
    held_out = None if judged is None else (judged.on(device), judged.rows)
    return net, fine_tune(net, settings, seen, held_out, target, context, device, world)


def _written(net: Tuned, numbers: int) -> bytes:
    """ONNX with the inputs "ids" and, where there are other columns, "numbers"."""
    whole, ids = _Whole(net.cpu()).eval(), torch.ones((2, 7), dtype=torch.int64)
    inputs, names = ([ids, torch.zeros(2, numbers)], ["ids", "numbers"]) if numbers else ([ids], ["ids"])
    return halved(to_onnx(whole, inputs, names, {"ids": {1: TOKENS}}))
