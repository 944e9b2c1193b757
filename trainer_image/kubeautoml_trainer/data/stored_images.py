"""The images of a raw frame, wherever they come from, into the cache of decoded ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import DataError
from kubeautoml_trainer.data.asked import Asked
from kubeautoml_trainer.data.base import Dataset
from kubeautoml_trainer.data.image_cache import ImageCache, Size, StoredImage
from kubeautoml_trainer.data.image_sources import SOURCES, Inline, bytes_or_path
from kubeautoml_trainer.data.images import ImageError, is_image_value, pixels_of


def with_stored_images(frame: pd.DataFrame, asked: Asked, cache: ImageCache, key: str, where: str) -> Dataset:
    """The frame with its images in the cache, without the rows whose images cannot be read.

    Args:
        key: names these rows and nothing else.
        where: what messages call them.

    Raises:
        DataError: too many images cannot be read, or the disk is too small.
    """
    bad = np.zeros(len(frame), dtype=bool)
    said: list[str] = []
    stored: dict[str, pd.Series] = {}
    for name in [str(c) for c in frame.columns]:
        column = frame[name]
        if not _holds_images(column, name, asked):
            continue
        values, problems = _stored_column(column, name, asked.images.get(name), cache, key, where)
        if problems.first and not asked.skips:
            raise DataError(
                f"the image in column '{name}' cannot be read: {problems.first}; leave it out, or upload it again",
                reason=Reason.DATASET_UNREADABLE,
            )
        stored[name] = values
        bad |= problems.mask
        if problems.first:
            some = int(problems.mask.sum())
            said.append(
                f"{some:,} of {len(frame):,} rows are left out, whose '{name}' cannot be read, such as {problems.first}"
            )
    if not stored:
        return Dataset(frame)
    out = frame.assign(**stored)
    return Dataset(out if not bad.any() else out[~bad].reset_index(drop=True), tuple(said))


def _holds_images(column: pd.Series, name: str, asked: Asked) -> bool:
    if (
        name in asked.others
        or (asked.only and name not in asked.images)
        or not pd.api.types.is_object_dtype(column.dtype)
    ):
        return name in asked.images
    if name in asked.images:
        return not all(v is None or isinstance(v, StoredImage) for v in column)
    present = (v for v in column if v is not None and not (isinstance(v, float) and v != v))
    first = next(present, None)
    return isinstance(first, SOURCES) or (is_image_value(first) and not isinstance(first, StoredImage))


@dataclass(frozen=True)
class _Problems:
    """mask: bool (n,), rows whose image cannot be read. first: the first of them in words."""

    mask: np.ndarray
    first: str = ""


def _stored_column(
    column: pd.Series, name: str, size: Size | None, cache: ImageCache, key: str, where: str
) -> tuple[pd.Series, _Problems]:
    sources: list[Any] = []
    places = np.full(len(column), -1, dtype=np.int64)
    for row, value in enumerate(column):
        source = _source(value, f"'{name}' in row {row}")
        if source is not None:
            places[row] = len(sources)
            sources.append(source)
    if not sources:
        raise DataError(f"{where}: column '{name}' has no image in any row", reason=Reason.INVALID_DATA)
    names = hashlib.sha256("\0".join(s.name for s in sources).encode()).hexdigest()
    images = cache.of(f"{key}\0{name}\0{names}", sources, size)
    values = np.empty(len(column), dtype=object)
    mask = np.zeros(len(column), dtype=bool)
    first = ""
    for row, place in enumerate(places.tolist()):
        if place in images.bad:
            mask[row] = True
            first = first or f"{sources[place].name}, which {images.bad[place]}"
        elif place >= 0:
            values[row] = StoredImage(images, place)
    return pd.Series(values, dtype=object, index=column.index), _Problems(mask, first)


def _source(value: Any, name: str) -> Any:
    """Where the image of a raw value comes from; None where there is none."""
    if isinstance(value, SOURCES) or value is None or (isinstance(value, float) and value != value):
        return value if isinstance(value, SOURCES) else None
    value = bytes_or_path(value)
    if isinstance(value, bytes | np.ndarray):
        return Inline(value, name)
    if isinstance(value, str) and not value.strip():
        return None
    return _Odd(value, name)


@dataclass(frozen=True, slots=True)
class _Odd:
    """A value of a column of images that is neither bytes nor a file: base64, or a mistake."""

    value: Any
    name: str

    def read(self) -> np.ndarray:
        pixels = pixels_of(self.value)
        if pixels is None:
            raise ImageError("is empty")
        return pixels
