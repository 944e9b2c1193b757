"""Networks of transformers from a folder: nothing is downloaded, no code of the folder's runs, no pickle is read."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def read_pretrained(folder: Path) -> tuple[Any, Mapping[str, Any]]:
    """The network in float32, and what the library says of the weights: "missing_keys", "mismatched_keys".

    Raises:
        Exception: whatever the library raises at a folder that it cannot read.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net, told = AutoModel.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
        )
    return net, told
