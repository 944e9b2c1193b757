"""Small pictures, files of them, and jobs over them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from data.data_factories import make_pod_job
from kubeautoml.api.pod import PodJob
from kubeautoml_trainer.data.image_cache import ImageCache


def make_picture(seed: int = 0, height: int = 12, width: int = 10, channels: int = 3) -> np.ndarray:
    """Noise, uint8 (height, width, channels)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def make_digit(label: int, seed: int, side: int = 12, channels: int = 1) -> np.ndarray:
    """A bar whose direction is its label (0 lies, 1 stands), on noise: classes that edges tell apart."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 60, (side, side, channels), dtype=np.uint8)
    at = int(random.integers(2, side - 4))
    place = (slice(at, at + 3), slice(1, -1)) if label == 0 else (slice(1, -1), slice(at, at + 3))
    pixels[place] = 220
    return pixels


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a file."""
    image = pixels
    if isinstance(pixels, np.ndarray):
        image = Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def make_folders(folder: Path, each: int = 20, **options: Any) -> Path:
    """A folder a class, `lying` and `standing`, of so many PNG files each; returns the folder."""
    for label, name in enumerate(("lying", "standing")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for k in range(each):
            (folder / name / f"{k:03}.png").write_bytes(encoded(make_digit(label, 1000 * label + k, **options)))
    return folder


def make_image_job(folder: Path, uri: str | None = None, *, task: str = "ImageClassification", **spec: Any) -> PodJob:
    """The smallest job over the images in `folder`/train/."""
    spec.setdefault("dataset", {"train": {"uri": uri or f"file://{folder}/train/"}})
    return make_pod_job(folder, task={"type": task, "target": "label"}, **spec)


def make_cache(folder: Path) -> ImageCache:
    return ImageCache(folder / "cache")


def make_table(rows: int = 80) -> pd.DataFrame:
    """Pictures of two sizes, a number, a category and a text, all of which say something of the label."""
    random = np.random.default_rng(0)
    labels = np.arange(rows) % 2
    photos = [encoded(make_digit(int(k), n, side=12 + 4 * (n % 2)), "PNG") for n, k in enumerate(labels)]
    return pd.DataFrame(
        {
            "photo": photos,
            "age": 20 + 30 * labels + random.integers(0, 40, rows),
            "plan": np.where(random.random(rows) < 0.3 + 0.4 * labels, "pro", "basic"),
            "note": [
                f"number {n} of the many bars which {'stand' if k else 'lie'} on grey noise"
                for n, k in enumerate(labels)
            ],
            "label": np.array(["lying", "standing"])[labels],
        }
    )
