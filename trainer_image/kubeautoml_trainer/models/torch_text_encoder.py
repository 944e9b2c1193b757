"""A transformers encoder as a network for onnxruntime: token numbers in, one vector a text out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.features.encoders import NETWORK, Compute, write_facts
from kubeautoml_trainer.features.tokens import TOKENIZER
from kubeautoml_trainer.models.torch_onnx import to_onnx
from kubeautoml_trainer.models.torch_pretrained import read_pretrained
from kubeautoml_trainer.models.tuned_text import TOKENS

MOST_TOKENS = 128
"""Of one text; what sentence encoders were mostly trained on. A guess that bounds time, which grows with the square."""
_MARKS = 2  # positions that some models keep for themselves, such as RoBERTa


def export(source: Path, target: Path) -> None:
    """Read the folder of a transformers model and write that of an encoder (`features.encoders`).

    Raises:
        BundleError: transformers cannot read it, or it does not say vectors.
    """
    net = read_pooled(source).eval()
    try:
        width = int(net(torch.ones((1, 3), dtype=torch.int64)).shape[1])
        # traced in evaluation, or dropout would stay on after
        file = to_onnx(net, [torch.ones((2, 7), dtype=torch.int64)], ["ids"], {"ids": {1: TOKENS}})
        (target / NETWORK).write_bytes(file)
    except Exception as error:  # any network may come
        raise BundleError(f"the text encoder cannot be turned into ONNX: {str(error)[:300]}") from error
    shutil.copyfile(source / TOKENIZER, target / TOKENIZER)
    write_facts(target, width, most_tokens(source, net.net.config))


class Pooled(nn.Module):
    """The mean over the tokens' vectors, or the vector of the first."""

    def __init__(self, net: Any, *, takes_first: bool) -> None:
        super().__init__()
        self.net, self.takes_first = net, takes_first

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """int64 (n, tokens); mask: 1 where there is a token, 0 behind the end; without one there are tokens everywhere -> float32
        (n, width).
        """
        there = torch.ones_like(ids) if mask is None else mask
        states: Tensor = self.net(input_ids=ids, attention_mask=there).last_hidden_state
        if self.takes_first:
            return states[:, 0]
        if mask is None:
            return states.mean(dim=1)
        weight = mask[:, :, None].to(states.dtype)
        return (states * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1.0)


def read_pooled(source: Path) -> Pooled:
    """The network of a folder, with one vector a text.

    Raises:
        BundleError: transformers cannot read it.
    """
    return Pooled(_model(source), takes_first=_takes_first(source))


def computed_on(device: torch.device, source: Path) -> Compute:
    """The network of a folder, ready on a device.

    Raises:
        BundleError: transformers cannot read it.
    """
    net = read_pooled(source).eval().to(device)

    @torch.no_grad()
    def compute(ids: np.ndarray) -> np.ndarray:
        vectors: np.ndarray = net(torch.as_tensor(ids, device=device)).float().cpu().numpy()
        return vectors

    return compute


def _model(source: Path) -> Any:
    try:
        net, _ = read_pretrained(source)
    except Exception as error:  # transformers raises whatever it likes
        raise BundleError(f"transformers cannot read the text encoder: {str(error)[:300]}") from error
    return net.get_encoder() if net.config.is_encoder_decoder else net


def _takes_first(source: Path) -> bool:
    """As sentence-transformers says it, where the folder comes from there."""
    said = _json(source / "1_Pooling" / "config.json")
    return bool(said.get("pooling_mode_cls_token")) and not said.get("pooling_mode_mean_tokens")


def most_tokens(source: Path, config: Any) -> int:
    """Tokens that are read of a text."""
    positions = getattr(config, "max_position_embeddings", None)
    asked = _json(source / "sentence_bert_config.json").get("max_seq_length")
    limits = [MOST_TOKENS, positions - _MARKS if isinstance(positions, int) and positions > _MARKS else None, asked]
    return min(n for n in limits if isinstance(n, int) and n > 0)


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
