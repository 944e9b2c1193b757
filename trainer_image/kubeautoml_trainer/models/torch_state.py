"""The state of a training as bytes: weights, averages, optimiser, generators and counters, so that it goes on as if never interrupted.

Safetensors with the counters as metadata; no pickle. A state of another training is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

FORMAT = 1


class StateError(ValueError):
    """The bytes are no state of this training."""


def packed(tensors: Mapping[str, Tensor], counters: Mapping[str, Any], signature: str) -> bytes:
    """signature: names the training; only it may take up the state."""
    from safetensors.torch import save

    described = {"format": FORMAT, "signature": signature, "counters": dict(counters)}
    return save({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, {"state": json.dumps(described)})


def unpacked(data: bytes, signature: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the counters.

    Raises:
        StateError: damaged, of another version, or of another training.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        length = int.from_bytes(data[:8], "little")
        described = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["state"])
        tensors = load(data)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise StateError(f"the state of the training cannot be read: {error!r}") from error
    if described.get("format") != FORMAT or described.get("signature") != signature:
        raise StateError("the state is of another training, or of another version")
    return tensors, described["counters"]


def write_into(tensors: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """Copy stored tensors into those in use, in place: all, or none.

    Raises:
        StateError: one is absent or has another shape.
    """
    for name, tensor in tensors.items():
        if name not in stored or stored[name].shape != tensor.shape:
            raise StateError(f"the state has no {name} of shape {tuple(tensor.shape)}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(stored[name])


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}
