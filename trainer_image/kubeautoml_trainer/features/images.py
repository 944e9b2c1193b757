"""What an image looks like in some hundred numbers: where its edges run, how light its parts are, which colours it has.

Edges are histograms of oriented gradients, each cell normalised by the four blocks around it (Dalal and Triggs 2005; Felzenszwalb et
al. 2010, "Object detection with discriminatively trained part-based models"). Nothing is learned, and each image is looked at by
itself, so the numbers of training and of a request agree to the last bit, and are computed once for all folds and trials.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np

from kubeautoml_trainer.data.images import fitted
from kubeautoml_trainer.features.again import known

SMALL_SIDE, CELL_OF_SMALL = 32, 4
"""Up to this side images are looked at as they are, in cells of 4 pixels (2 below 16 pixels)."""
SIDE, CELL = 64, 8
"""Larger ones are made this large, in cells of 8 pixels."""
BINS = 9
"""Orientations, without direction."""
CLIP = 0.2
"""Of normalised gradients, so that one strong edge does not drown the others; as in both papers."""
FEW_PIXELS = 256
"""Images of so few pixels are numbers themselves."""
GRID = 4
"""Parts a side for lightness and colour."""
HISTOGRAM = 16
"""Levels of grey in a histogram; of colours, 4 of each channel together."""
KEPT_BYTES = 256 * 2**20
"""Numbers of this process's images that are kept, at most."""


@dataclass(frozen=True)
class ImageFeatures:
    """The numbers of one column of images of this stored size."""

    height: int
    width: int
    channels: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width that are looked at."""
        longer = max(self.height, self.width)
        if longer <= SMALL_SIDE:
            return self.height, self.width
        scale = min(SIDE, longer) / longer
        return max(1, round(self.height * scale)), max(1, round(self.width * scale))

    @property
    def cells(self) -> tuple[int, int]:
        height, width = self.size
        longer = max(height, width)
        cell = CELL if longer > SMALL_SIDE else CELL_OF_SMALL if longer > 16 else 2
        return max(1, round(height / cell)), max(1, round(width / cell))

    @cached_property
    def count(self) -> int:
        """How many numbers an image becomes."""
        return len(self._of(np.zeros((self.height, self.width, self.channels), dtype=np.uint8)))

    def numbers(self, values: np.ndarray) -> np.ndarray:
        """object (n,) of uint8 (height, width, channels), None for missing -> float64 (n, count), NaN for missing."""
        out = np.full((len(values), self.count), np.nan)
        images = known("images", len(values), _kept_for_good(), _OfOnePrediction)
        for row, pixels in enumerate(values):
            if pixels is not None:
                out[row] = self._of(pixels) if images is None else images.of(pixels, self)
        return out

    def _of(self, pixels: np.ndarray) -> np.ndarray:
        """float32 (count,) of one image."""
        height, width = self.size
        pixels = fitted(pixels, height, width, self.channels)
        grey = _grey(pixels)
        parts = [_edges(grey, *self.cells), _lightness(pixels), _histogram(pixels)]
        if height * width <= FEW_PIXELS:
            parts.append(pixels.ravel() / 255.0)
        return np.concatenate(parts).astype(np.float32)


def _grey(pixels: np.ndarray) -> np.ndarray:
    """Luminance, float64 (h, w), 0 to 255."""
    if pixels.shape[2] == 1:
        return pixels[:, :, 0].astype(np.float64)
    return 0.299 * pixels[:, :, 0] + 0.587 * pixels[:, :, 1] + 0.114 * pixels[:, :, 2]


class Known(Protocol):
    """Numbers of images that are known."""

    def of(self, pixels: np.ndarray, features: ImageFeatures) -> np.ndarray:
        """float32 (count,). Nobody may write into what comes back."""
        ...


class _OfOnePrediction:
    """The images of one prediction, whose rows hold them meanwhile."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, ImageFeatures], np.ndarray] = {}

    def of(self, pixels: np.ndarray, features: ImageFeatures) -> np.ndarray:
        found = self._kept.get((id(pixels), features))
        if found is None:
            found = self._kept[id(pixels), features] = features._of(pixels)
        return found


class KnownImages:
    """Numbers of images that lie in a mapped file (`data.image_cache`), which every fold and trial asks for again."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        # by where the pixels lie; the file stays mapped for as long as they are known
        self._kept: dict[tuple[int, ImageFeatures], np.ndarray] = {}
        self._mapped: dict[int, np.memmap[Any, Any]] = {}
        self._lock = threading.Lock()

    def of(self, pixels: np.ndarray, features: ImageFeatures) -> np.ndarray:
        mapped = _mapped(pixels)
        if mapped is None:
            return features._of(pixels)
        key = (pixels.__array_interface__["data"][0], features)
        found = self._kept.get(key)
        if found is None:
            found = features._of(pixels)
            with self._lock:
                if self._bytes < self._most_bytes and key not in self._kept:
                    self._kept[key] = found
                    self._mapped[id(mapped)] = mapped
                    self._bytes += found.nbytes
        return found

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._kept.clear()
            self._mapped.clear()
            self._bytes = 0


def _mapped(pixels: np.ndarray) -> np.memmap[Any, Any] | None:
    """The mapped file that an array is a view into."""
    base: Any = pixels
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return base
        base = base.base
    return None


KNOWN = KnownImages(KEPT_BYTES)
"""This process's."""


def _edges(grey: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """float64 (rows * columns * 13,) of float64 (h, w): nine orientations and four strengths a cell."""
    light = np.pad(np.sqrt(grey / 255.0), 1, mode="edge")
    right = light[1:-1, 2:] - light[1:-1, :-2]
    down = light[2:, 1:-1] - light[:-2, 1:-1]
    strength = np.sqrt(right * right + down * down).ravel()
    turn = (np.arctan2(down, right).ravel() % np.pi) * (BINS / np.pi)
    lower = np.minimum(turn.astype(np.intp), BINS - 1)
    share = turn - lower
    places, weights = _cells(*grey.shape, rows, columns)
    one = np.bincount(
        (places + lower).ravel(), (weights * (strength * (1 - share))).ravel(), minlength=rows * columns * BINS
    )
    two = np.bincount(
        (places + (lower + 1) % BINS).ravel(), (weights * (strength * share)).ravel(), minlength=rows * columns * BINS
    )
    cells = (one + two).reshape(rows, columns, BINS)
    energy = np.pad(np.einsum("yxb,yxb->yx", cells, cells), 1, mode="edge")
    blocks = energy[:-1, :-1] + energy[1:, :-1] + energy[:-1, 1:] + energy[1:, 1:]
    scale = 1 / (np.sqrt(blocks) + 0.1)
    around = np.stack([scale[:-1, :-1], scale[1:, :-1], scale[:-1, 1:], scale[1:, 1:]])
    normal = np.minimum(cells[None] * around[..., None], CLIP)
    return np.concatenate([normal.sum(axis=0).ravel() / 2, normal.sum(axis=3).ravel() / 2])


@lru_cache(maxsize=32)
def _cells(height: int, width: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """The four cells that a pixel counts for, as places of their first orientation, intp (4, h * w), and how much, float64 (4, h * w)."""
    y, x = (_shares(n, cells) for n, cells in ((height, rows), (width, columns)))
    places = [(a[0][:, None] * columns + b[0][None, :]).ravel() * BINS for a in y for b in x]
    weights = [(a[1][:, None] * b[1][None, :]).ravel() for a in y for b in x]
    return np.stack(places), np.stack(weights)


def _shares(pixels: int, cells: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Of each pixel of a line the cell before it and the one behind it, and the share of each."""
    at = (np.arange(pixels) + 0.5) * cells / pixels - 0.5
    first = np.floor(at).astype(np.intp)
    behind = at - first
    return (np.clip(first, 0, cells - 1), 1 - behind), (np.clip(first + 1, 0, cells - 1), behind)


def _lightness(pixels: np.ndarray) -> np.ndarray:
    """Mean and deviation of each channel in each part of a grid, float64, 0 to 1."""
    height, width, _ = pixels.shape
    rows, columns = min(GRID, height), min(GRID, width)
    values = pixels / 255.0
    y, x = np.arange(rows) * height // rows, np.arange(columns) * width // columns
    counts = np.diff([*y, height])[:, None, None] * np.diff([*x, width])[None, :, None]
    mean, square = (
        np.add.reduceat(np.add.reduceat(v, y, axis=0), x, axis=1) / counts for v in (values, values * values)
    )
    return np.concatenate([mean.ravel(), np.sqrt(np.maximum(square - mean * mean, 0.0)).ravel()])


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """Shares of the levels of grey, or of colours, whose square roots tell rare ones apart better."""
    if pixels.shape[2] == 1:
        codes, size = pixels.ravel() // (256 // HISTOGRAM), HISTOGRAM
    else:
        codes, size = (pixels // 64) @ np.array([16, 4, 1], dtype=np.uint8), 64
    shares = np.bincount(codes.ravel(), minlength=size) / (pixels.shape[0] * pixels.shape[1])
    return np.asarray(np.sqrt(shares))


def _kept_for_good() -> Known:
    return KNOWN
