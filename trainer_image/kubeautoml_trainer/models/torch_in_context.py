"""The in-context transformer on a CUDA device: the same function as numpy's, with the rows to learn from kept there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from kubeautoml_trainer.models.in_context import Network, Operations, answer, remember
from kubeautoml_trainer.models.torch_training import device_for_training

TORCH = Operations(
    einsum=torch.einsum,
    softmax=lambda x: torch.softmax(x, -1),
    gelu=functional.gelu,
    norm=lambda x: functional.layer_norm(x, x.shape[-1:]),
)

Answers = Callable[[np.ndarray], np.ndarray]
"""float32 (n, features) -> (n, outputs of the head)."""


def has_device() -> bool:
    """Whether there is a device worth the transfer."""
    return device_for_training().type == "cuda"


@torch.no_grad()
def on_device(network: Network, x: np.ndarray, y: np.ndarray, head: str) -> Answers:
    """Read the rows to learn from (as `in_context.remember`), and return what answers."""
    device = device_for_training()
    weights = {name: torch.as_tensor(array, device=device) for name, array in network.weights.items()}
    memory = remember(
        TORCH, network.config, weights, torch.as_tensor(x, device=device), torch.as_tensor(y, device=device)
    )

    @torch.no_grad()
    def answers(rows: np.ndarray) -> np.ndarray:
        asked = torch.as_tensor(rows, device=device)
        return np.asarray(answer(TORCH, network.config, weights, memory, asked, head).cpu().numpy())

    return answers
