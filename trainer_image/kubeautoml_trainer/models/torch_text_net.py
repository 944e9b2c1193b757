"""Training of the networks in `text_net`, by the loop of `torch_loop`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kubeautoml_trainer.data.base import Rows
from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.models.target import NumberTarget
from kubeautoml_trainer.models.torch_lesson import AS_THEY_ARE, Settings, Trained, training_and_validation
from kubeautoml_trainer.models.torch_loop import train
from kubeautoml_trainer.models.torch_onnx import to_onnx
from kubeautoml_trainer.models.torch_optimisers import parameter_groups
from kubeautoml_trainer.models.torch_training import Inputs, device_for_training

_LETTERS = 24  # numbers of a character's vector
_KERNELS = (3, 5, 7)
_SMOOTHING = 0.05


@dataclass(frozen=True)
class Arrays:
    """Rows as arrays of the same first axis: what the network takes, in order."""

    parts: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.parts[0])

    def on(self, device: torch.device) -> Resident:
        return Resident(tuple(torch.as_tensor(p, device=device) for p in self.parts))


@dataclass(frozen=True)
class Resident:
    """All rows on the device."""

    parts: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.parts[0])

    def batches(self, orders: Sequence[Tensor]) -> Iterator[Inputs]:
        for order in orders:
            yield tuple(p[order] for p in self.parts)


def bags(matrix: Any, numbers: np.ndarray) -> Arrays:
    """Terms int32 (n, most), one more than their column, 0 where there are fewer; their weights float32 (n, most); numbers float32."""
    counts = np.diff(matrix.indptr)
    most = max(1, int(counts.max()) if len(counts) else 1)
    place = np.zeros((len(counts), most), dtype=np.int32)
    weight = np.zeros((len(counts), most), dtype=np.float32)
    is_there = np.arange(most) < counts[:, None]
    place[is_there], weight[is_there] = matrix.indices + 1, matrix.data
    return Arrays((place, weight, numbers.astype(np.float32)))


def sequences(codes: np.ndarray, numbers: np.ndarray) -> Arrays:
    """Characters int64 (n, most) and numbers float32 (n, k)."""
    return Arrays((codes, numbers.astype(np.float32)))


class Bag(nn.Module):
    """A weighted sum of terms' vectors and the numbers, then two layers."""

    def __init__(self, terms: int, numbers: int, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.vectors = nn.Embedding(terms + 1, width, padding_idx=0)
        nn.init.normal_(self.vectors.weight, std=0.5)
        self.hidden, self.out = nn.Linear(width + numbers, width), nn.Linear(width, outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, terms: Tensor, weights: Tensor, numbers: Tensor) -> Tensor:
        bag = functional.embedding_bag(
            terms.long(), self.vectors.weight, mode="sum", per_sample_weights=weights, padding_idx=0
        )
        h = functional.relu(self.hidden(self.dropout(torch.cat([bag, numbers], dim=1))))
        out: Tensor = self.out(self.dropout(h))
        return out

    def arrays(self) -> dict[str, np.ndarray]:
        """As `text_net.BagModel` wants them."""
        state = {name: t.detach().cpu().numpy() for name, t in self.state_dict().items()}
        return {
            "vectors": np.ascontiguousarray(state["vectors.weight"][1:]),
            "hidden": np.ascontiguousarray(state["hidden.weight"].T),
            "hidden_bias": state["hidden.bias"].copy(),
            "out": np.ascontiguousarray(state["out.weight"].T),
            "out_bias": state["out.bias"].copy(),
        }


class Convolutions(nn.Module):
    """Characters' vectors, convolutions of three lengths, the greatest answer of each anywhere in the text, and the numbers."""

    def __init__(self, alphabet: int, numbers: int, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.letters = nn.Embedding(alphabet, _LETTERS, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(_LETTERS, width, k, padding=k // 2) for k in _KERNELS)
        self.out = nn.Linear(len(_KERNELS) * width + numbers, outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        x = self.letters(codes).transpose(1, 2)
        found = [functional.relu(c(x)).amax(dim=2) for c in self.convolutions]
        out: Tensor = self.out(self.dropout(torch.cat([*found, numbers], dim=1)))
        return out


class _OnlyCodes(nn.Module):
    """Rows that have nothing but the text."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, codes: Tensor) -> Tensor:
        out: Tensor = self.net(codes, torch.zeros(codes.shape[0], 0))
        return out


def fit_bag(
    settings: Mapping[str, Any],
    terms: int,
    learned: tuple[Arrays, Rows],
    judged: tuple[Arrays, Rows] | None,
    target: NumberTarget | None,
    context: FitContext,
) -> tuple[dict[str, np.ndarray], Trained]:
    """Train; returns the arrays of a `text_net.BagModel`.

    Raises:
        FitTimeout: the deadline came before the first step.
    """
    net = _seeded(
        context,
        lambda: Bag(
            terms,
            learned[0].parts[2].shape[1],
            int(settings["width"]),
            context.task.outputs,
            float(settings["dropout"]),
        ),
    )
    trained = _train(net, settings, learned, judged, target, context)
    return net.arrays(), trained


def fit_convolution(
    settings: Mapping[str, Any],
    alphabet: int,
    learned: tuple[Arrays, Rows],
    judged: tuple[Arrays, Rows] | None,
    target: NumberTarget | None,
    context: FitContext,
) -> tuple[bytes, Trained]:
    """Train; returns ONNX with the inputs "codes" and, where there are other columns, "numbers".

    Raises:
        FitTimeout: the deadline came before the first step.
    """
    codes, numbers = learned[0].parts
    k = numbers.shape[1]
    net = _seeded(
        context,
        lambda: Convolutions(alphabet, k, int(settings["width"]), context.task.outputs, float(settings["dropout"])),
    )
    trained = _train(net, settings, learned, judged, target, context)
    net = net.cpu().eval()
    example = torch.zeros((2, codes.shape[1]), dtype=torch.int64)
    if k:
        return to_onnx(net, [example, torch.zeros(2, k)], ["codes", "numbers"]), trained
    return to_onnx(_OnlyCodes(net), [example], ["codes"]), trained


def _seeded(context: FitContext, make: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        return make()


def _train(
    net: nn.Module,
    settings: Mapping[str, Any],
    learned: tuple[Arrays, Rows],
    judged: tuple[Arrays, Rows] | None,
    target: NumberTarget | None,
    context: FitContext,
) -> Trained:
    device = device_for_training()
    held_out = None if judged is None else (judged[0].on(device), judged[1])
    training, validation = training_and_validation(
        (learned[0].on(device), learned[1]), held_out, target, context, device, _SMOOTHING, AS_THEY_ARE
    )
    loop = Settings(
        epochs=int(settings["epochs"]),
        batch=int(settings["batch_size"]),
        rate=float(settings["learning_rate"]),
        decay=float(settings["weight_decay"]),
        patience=max(3, int(settings["epochs"]) // 3),
    )
    return train(net, lambda n: parameter_groups(n.named_parameters()), training, validation, loop, context, device)
