"""The hold-out images that the model is most wrong about: what a person looks at first."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

import numpy as np

from kubeautoml.api.dataset import ColumnType
from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.data.images import data_url, fitted

SHOWN = 24
SIDE = 96
"""Longer side of a thumbnail, in pixels; smaller images are shown larger by the browser, pixel by pixel."""
STYLE = """
.pictures{display:flex;flex-wrap:wrap;gap:12px}.pictures figure{margin:0;width:120px;font-size:12.5px;line-height:1.35}
.pictures img{width:120px;height:120px;object-fit:contain;background:var(--card);border:1px solid var(--line);border-radius:6px}
.pictures img.small{image-rendering:pixelated}.pictures figcaption{overflow-wrap:anywhere}
"""


@dataclass(frozen=True)
class Mistake:
    """One hold-out row: its image, and what was said of it in words."""

    pixels: np.ndarray = field(repr=False)
    truth: str
    said: str


def worst_mistakes(rows: Rows, prediction: np.ndarray, schema: Schema) -> list[Mistake]:
    """The surest mistakes first; for numbers, the widest misses. None for rows without images.

    Args:
        prediction: float (n, outputs), probabilities of classes, quantiles, or one number.
    """
    name = next((c.name for c in schema.features if c.type is ColumnType.IMAGE), None)
    if name is None or not len(rows):
        return []
    images = rows.frame[name].to_numpy()
    if schema.classes:
        decided = prediction.argmax(axis=1)
        wrong = np.flatnonzero(decided != rows.y)
        at = np.arange(len(rows))
        sure = prediction[at, decided] - prediction[at, rows.y]
        order = wrong[np.argsort(-sure[wrong], kind="stable")]
        words = [
            (schema.classes[rows.y[k]], f"{schema.classes[decided[k]]} ({prediction[k, decided[k]]:.0%})")
            for k in order
        ]
    else:
        middle = prediction[:, prediction.shape[1] // 2]
        order = np.argsort(-np.abs(middle - rows.y), kind="stable")
        words = [(f"{rows.y[k]:.5g}", f"{middle[k]:.5g}") for k in order]
    found = [Mistake(images[k], t, s) for k, (t, s) in zip(order, words, strict=True) if images[k] is not None]
    return found[:SHOWN]


def mistakes_section(rows: Rows, prediction: np.ndarray, schema: Schema) -> str:
    """HTML; empty where there is nothing to show."""
    mistakes = worst_mistakes(rows, prediction, schema)
    if not mistakes:
        return ""
    what = "in the wrong class, those first that the model was surest of" if schema.classes else "farthest off"
    figures = "".join(map(_figure, mistakes))
    return f'<h2>Worst mistakes</h2><p class="soft">Hold-out images that were {what}.</p><div class="pictures">{figures}</div>'


def _figure(mistake: Mistake) -> str:
    height, width, channels = mistake.pixels.shape
    scale = min(1.0, SIDE / max(height, width))
    small = fitted(mistake.pixels, max(1, round(height * scale)), max(1, round(width * scale)), channels)
    kind = ' class="small"' if max(height, width) < SIDE else ""
    return (
        f'<figure><img{kind} src="{data_url(small)}" alt=""><figcaption>is {escape(mistake.truth)}<br>'
        f"said {escape(mistake.said)}</figcaption></figure>"
    )
