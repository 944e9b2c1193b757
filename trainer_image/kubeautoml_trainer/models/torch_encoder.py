"""Pretrained vision backbones of transformers, read from a folder, as networks whose features a head is put on.

Nothing is ever fetched: the library is told to stay offline, code in the folder is not run, weights must be safetensors.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"  # read when transformers is imported

import torch
from torch import Tensor, nn

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.models.torch_head import Headed
from kubeautoml_trainer.models.torch_pretrained import read_pretrained

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # what most backbones were trained with
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"


def check_backbone(folder: Path) -> dict[str, Any]:
    """The config of a folder that holds a vision model of transformers with its weights.

    Raises:
        BundleError: it does not; says what must be there.
    """
    if not folder.is_dir():
        raise BundleError("the weights must be a folder, with a URI that ends in /")
    if not (folder / CONFIG).is_file():
        raise BundleError(f"the folder must hold {CONFIG}, as transformers' save_pretrained writes it")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = str(config["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{CONFIG} must be JSON with a model_type: {error!r}") from error
    if not any(folder.glob("*.safetensors")):
        old = ", ".join(sorted(p.name for p in folder.glob("*.bin")))
        hint = f", not {old}, which may run code when read" if old else ""
        raise BundleError(f"the folder must hold model.safetensors{hint}; write it with save_pretrained")
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as VISION

    if kind not in CONFIG_MAPPING:
        raise BundleError(f"{CONFIG}: model_type '{kind}' is no architecture that this version of transformers knows")
    if kind not in VISION:
        known = ", ".join(sorted(VISION)[:12])
        raise BundleError(f"{CONFIG}: model_type '{kind}' is no vision model; it must be one such as {known}")
    return dict(config)


def fixed_side(config: dict[str, Any]) -> int | None:
    """Pixels a side that a backbone of patches was made for; None where any size will do."""
    side = config.get("image_size")
    return int(side) if isinstance(side, int) and "patch_size" in config else None


def moments_of(folder: Path) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each colour that the backbone expects, from 0 to 1, float32 (3,)."""
    try:
        stored = json.loads((folder / PREPROCESSOR).read_text(encoding="utf-8"))
        mean, deviation = stored["image_mean"], stored["image_std"]
        return torch.tensor(mean, dtype=torch.float32), torch.tensor(deviation, dtype=torch.float32)
    except (OSError, ValueError, KeyError, TypeError):
        return torch.tensor(_IMAGENET[0]), torch.tensor(_IMAGENET[1])


class Backbone(nn.Module):
    """float (n, 1 or 3, height, width), normalised -> float (n, features)."""

    def __init__(self, model: nn.Module, is_pooled: bool) -> None:
        super().__init__()
        self.model, self.is_pooled = model, is_pooled

    def forward(self, pictures: Tensor) -> Tensor:
        colours = pictures.expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures
        out = self.model(pixel_values=colours, return_dict=True)
        if self.is_pooled:
            pooled: Tensor = out.pooler_output
            return pooled.flatten(1)
        last: Tensor = out.last_hidden_state
        return last.mean(dim=(2, 3)) if last.dim() == 4 else last.mean(dim=1)

    def train(self, mode: bool = True) -> Backbone:
        """Statistics of batches stay as pretraining left them: small batches of other pictures would only spoil them."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


def load_backbone(folder: Path) -> Backbone:
    """Read a folder that `check_backbone` has passed.

    Raises:
        BundleError: the weights are damaged, or are not those of the config.
    """
    try:
        model, told = read_pretrained(folder)
    except Exception as error:  # whatever the library raises
        words = " ".join(str(error).split())[:300]
        raise BundleError(f"the weights do not go with {CONFIG}: {words}") from error
    absent = [name for name in told["missing_keys"] if not name.startswith("pooler.")]
    if absent or told["mismatched_keys"]:
        names = ", ".join(sorted(map(str, absent or told["mismatched_keys"]))[:3])
        raise BundleError(f"the weights do not go with {CONFIG}: {names} and others are absent or of another shape")
    has_pooler = not any(name.startswith("pooler.") for name in told["missing_keys"])
    backbone = Backbone(model.eval(), is_pooled=False)
    if has_pooler:
        side = fixed_side(model.config.to_dict()) or 64
        with torch.no_grad():
            out = model(pixel_values=torch.zeros(1, 3, side, side), return_dict=True)
        backbone.is_pooled = getattr(out, "pooler_output", None) is not None
    return backbone


class Encoder(Headed):
    """A backbone with its head: float (n, channels, height, width), float (n, numbers) -> float (n, outputs)."""

    def forward(self, pictures: Tensor, numbers: Tensor) -> Tensor:
        out: Tensor = self.head(self.backbone(pictures), numbers)
        return out
