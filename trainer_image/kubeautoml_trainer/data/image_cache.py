"""Images of a column, decoded and resized once into a file that is memory-mapped: what trials read instead of the storage.

A folder of the cache holds `pixels.bin` (uint8, image after image), `digests.bin` (SHA-256 of each file's bytes) and `facts.json`. It
is made beside its place and then takes its name, so what a killed worker leaves is never taken for whole. Memory stays bounded: a few
images in flight, one large one at a time; the system pages the file in and out.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import DataError, ObjectNotFound, StorageError
from kubeautoml_trainer.data.images import ImageError, decode, fitted, from_array, size_of

MAX_SIDE = 224
"""Longer side of the stored size at most, in pixels: what most pretrained networks take. Smaller images keep their size."""
MIN_SIDE = 8
MAX_CACHE_BYTES = 16 * 2**30
"""Of one column; more images than fit are stored smaller. A guess: what a node's disk and its page cache still carry."""
SAMPLE = 256
"""Images whose sizes are looked at before the first is stored: the stored size is their median."""
MAX_BAD_SHARE = 0.1
"""Share of the images that may be unreadable; such rows are left out, with a warning. Above it the job fails."""
FETCHERS = 16
"""Images fetched at once; a guess that hides the way to an object storage."""
WINDOW = 64
"""Images fetched, decoded or waiting to be written."""
KEPT_FREE = 0.05
"""Share of the disk that is left to others."""
FORMAT = 1
_PIXELS, _DIGESTS, _FACTS = "pixels.bin", "digests.bin", "facts.json"

Told = Callable[[int, int], None]
"""Called with (images done, of how many), now and then."""


@dataclass(frozen=True)
class Size:
    """Of every stored image, in pixels; channels are 1 or 3."""

    height: int
    width: int
    channels: int

    @property
    def bytes(self) -> int:
        return self.height * self.width * self.channels


class Source(Protocol):
    """Where one image comes from."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def read(self) -> bytes | np.ndarray:
        """The file's bytes, or pixels as `data.images.from_array` takes them.

        Raises:
            ObjectNotFound: it is not there.
            ImageError: there can be none.
            StorageError: the storage refuses or does not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One image of a cache, as raw frames hold it."""

    cache: CachedImages = field(repr=False)
    index: int

    @property
    def pixels(self) -> np.ndarray:
        """uint8 (height, width, channels), a view into the file."""
        found: np.ndarray = self.cache.array[self.index]
        return found

    @property
    def digest(self) -> str:
        """SHA-256 of the file's bytes."""
        return bytes(self.cache.digests[self.index]).hex()

    def __repr__(self) -> str:
        """What the digest of the data is made from."""
        return f"image {self.digest}"


@dataclass(frozen=True, eq=False)
class CachedImages:
    """Images of one column. array: uint8 (n, height, width, channels), mapped read-only. digests: uint8 (n, 32). bad: why an image
    could not be read, by position; its pixels are 0.
    """

    size: Size
    array: np.ndarray = field(repr=False)
    digests: np.ndarray = field(repr=False)
    bad: dict[int, str]

    def __len__(self) -> int:
        return len(self.array)


@dataclass(frozen=True)
class ImageCache:
    """Where caches are made. threads: images decoded at once. told: hears of progress."""

    folder: Path
    threads: int = 1
    told: Told = lambda done, of: None

    def clear_leftovers(self) -> None:
        """Remove what a process left that was killed; only for a folder that no other process uses."""
        for folder in self.folder.glob(".*"):
            shutil.rmtree(folder, ignore_errors=True)

    def of(self, key: str, sources: Sequence[Source], size: Size | None = None) -> CachedImages:
        """The images, from the cache of that key if it is there.

        Args:
            key: names these sources and nothing else.
            size: what all are brought to; None for what their own sizes suggest.

        Raises:
            DataError: too many cannot be read, or the disk is too small.
            StorageError: the storage refuses or does not answer.
        """
        asked = f"{FORMAT}\0{key}\0{size}\0{len(sources)}"
        target = self.folder / hashlib.sha256(asked.encode()).hexdigest()[:32]
        found = _opened(target)
        if found is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.folder))
            try:
                _make(partial, sources, size, self.threads, self.told)
                with suppress(OSError):  # another process was quicker, and made the same
                    partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            found = _opened(target)
            if found is None:
                raise StorageError(f"{target}: the cache of images cannot be read again; check the disk")
        return found


@contextmanager
def temporary_cache(threads: int = 1) -> Iterator[ImageCache]:
    """For notebooks and single files. The images can be used afterwards: a mapping outlives the name of its file."""
    with tempfile.TemporaryDirectory(prefix="kubeautoml-images-") as folder:
        yield ImageCache(Path(folder), threads)


def cached_images(column: pd.Series) -> CachedImages | None:
    """The cache behind a column; None for a column of something else."""
    if not pd.api.types.is_object_dtype(column.dtype):
        return None
    first = next((v for v in column if v is not None), None)
    return first.cache if isinstance(first, StoredImage) else None


def stored_size(sizes: Sequence[tuple[int, int, int]], images: int, most_bytes: int = MAX_CACHE_BYTES) -> Size:
    """The size to store: the median height and width, no longer than `MAX_SIDE`, smaller if so many images would not fit; colour as
    soon as one has some.

    Args:
        sizes: (height, width, channels) of some images.

    >>> stored_size([(28, 28, 1)], 60_000), stored_size([(480, 640, 3), (400, 600, 1), (500, 700, 3)], 10)
    (Size(height=28, width=28, channels=1), Size(height=168, width=224, channels=3))
    """
    height, width = (float(np.median([s[k] for s in sizes])) for k in (0, 1))
    channels = max(s[2] for s in sizes)
    shrink = min(1.0, MAX_SIDE / max(height, width))
    fits = (most_bytes / max(1.0, images * channels * height * width)) ** 0.5
    shrink = min(shrink, max(fits, MIN_SIDE / min(height, width)))
    return Size(max(1, round(height * shrink)), max(1, round(width * shrink)), channels)


def _opened(target: Path) -> CachedImages | None:
    """What is there, if it is whole."""
    try:
        facts = json.loads((target / _FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    size, n = Size(**facts["size"]), facts["images"]
    shape = (n, size.height, size.width, size.channels)
    if not n:
        return CachedImages(size, np.zeros(shape, dtype=np.uint8), np.zeros((0, 32), dtype=np.uint8), {})
    array = np.memmap(target / _PIXELS, dtype=np.uint8, mode="r", shape=shape)
    digests = np.frombuffer((target / _DIGESTS).read_bytes(), dtype=np.uint8).reshape(n, 32)
    # as a plain array: views of a memmap carry its bookkeeping, 20 times the price of each
    return CachedImages(size, np.asarray(array), digests, {int(k): why for k, why in facts["bad"].items()})


@dataclass(frozen=True)
class _Fetched:
    digest: bytes
    pixels: np.ndarray | None
    problem: str = ""


def _make(folder: Path, sources: Sequence[Source], size: Size | None, threads: int, told: Told) -> None:
    """Fill the folder of a cache; `facts.json` last."""
    decoding = threading.Semaphore(max(1, threads))
    with ThreadPoolExecutor(FETCHERS) as pool:
        if size is None:
            size, may_grow = _size_of_sample(pool, sources), True
        else:
            may_grow = False
        _check_disk(folder, size, len(sources))
        bad: dict[int, str] = {}
        digests = np.zeros((len(sources), 32), dtype=np.uint8)
        began = 0.0
        with (folder / _PIXELS).open("w+b") as file:
            for index, found in enumerate(_fetched(pool, sources, size, decoding, may_grow)):
                digests[index] = np.frombuffer(found.digest, dtype=np.uint8)
                if found.pixels is None:
                    bad[index] = found.problem
                    _check_bad(bad, sources)
                else:
                    if found.pixels.shape[2] > size.channels:
                        size = _with_colour(file.fileno(), size, index)
                        _check_disk(folder, size, len(sources) - index)
                    pixels = fitted(found.pixels, size.height, size.width, size.channels)
                    os.pwrite(file.fileno(), pixels.tobytes(), index * size.bytes)
                if time.monotonic() - began > 1.0 or index + 1 == len(sources):
                    told(index + 1, len(sources))
                    began = time.monotonic()
            file.truncate(len(sources) * size.bytes)
    (folder / _DIGESTS).write_bytes(digests.tobytes())
    facts = {
        "size": {"height": size.height, "width": size.width, "channels": size.channels},
        "images": len(sources),
        "bad": bad,
    }
    (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")


def _fetched(
    pool: ThreadPoolExecutor, sources: Sequence[Source], size: Size, decoding: threading.Semaphore, may_grow: bool
) -> Iterator[_Fetched]:
    """Images in their order, some in flight."""
    waiting: deque[Future[_Fetched]] = deque()
    try:
        for source in sources:
            waiting.append(pool.submit(_fetch, source, size, decoding, may_grow))
            if len(waiting) >= WINDOW:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _fetch(source: Source, size: Size, decoding: threading.Semaphore, may_grow: bool) -> _Fetched:
    """One image, in the stored height and width; with its own channels where the column may still become coloured."""
    try:
        data = source.read()
    except ObjectNotFound:
        return _Fetched(bytes(32), None, "does not exist")
    except ImageError as error:
        return _Fetched(bytes(32), None, str(error))
    digest = hashlib.sha256(data if isinstance(data, bytes) else data.tobytes()).digest()
    try:
        with decoding:
            pixels = decode(data, max(size.height, size.width)) if isinstance(data, bytes) else from_array(data)
            channels = max(size.channels, pixels.shape[2]) if may_grow else size.channels
            return _Fetched(digest, fitted(pixels, size.height, size.width, channels))
    except ImageError as error:
        return _Fetched(digest, None, str(error))


def _size_of_sample(pool: ThreadPoolExecutor, sources: Sequence[Source]) -> Size:
    """The size that some images suggest, taken at even distances; each worker takes the same."""
    step = max(1, len(sources) // SAMPLE)
    sizes = [s for s in pool.map(_size, sources[::step]) if s is not None]
    if not sizes:
        raise _too_many({0: _why(sources[0])}, sources)
    return stored_size(sizes, len(sources))


def _size(source: Source) -> tuple[int, int, int] | None:
    try:
        data = source.read()
        if not isinstance(data, bytes):
            return from_array(data).shape
        return size_of(data)
    except (ImageError, ObjectNotFound):
        return None


def _why(source: Source) -> str:
    try:
        data = source.read()
        decode(data) if isinstance(data, bytes) else from_array(data)
    except ObjectNotFound:
        return "does not exist"
    except ImageError as error:
        return str(error)
    return ""


def _with_colour(file: int, size: Size, images: int) -> Size:
    """Make the images that are written already coloured: the sample held only grey ones. Last first, since they grow."""
    wider = Size(size.height, size.width, 3)
    for index in reversed(range(images)):
        grey = np.frombuffer(os.pread(file, size.bytes, index * size.bytes).ljust(size.bytes, b"\0"), dtype=np.uint8)
        os.pwrite(file, np.repeat(grey, 3).tobytes(), index * wider.bytes)
    return wider


def _check_bad(bad: dict[int, str], sources: Sequence[Source]) -> None:
    if len(bad) > MAX_BAD_SHARE * len(sources):
        raise _too_many(bad, sources)


def _too_many(bad: dict[int, str], sources: Sequence[Source]) -> DataError:
    index, why = next(iter(bad.items()))
    return DataError(
        f"at most {MAX_BAD_SHARE:.0%} of the images may be unreadable, {len(bad)} of the first {max(bad) + 1} of {len(sources)} are, "
        f"such as {sources[index].name}, which {why}; upload them again, or leave their rows out",
        reason=Reason.DATASET_UNREADABLE,
    )


def _check_disk(folder: Path, size: Size, images: int) -> None:
    """Before the work, not in the middle of it.

    Raises:
        DataError: the decoded images would fill the disk.
    """
    usage = shutil.disk_usage(folder)
    free, needed = usage.free - int(KEPT_FREE * usage.total), images * size.bytes
    if needed > free:
        raise DataError(
            f"{images:,} images of {size.width} x {size.height} pixels need {needed / 1e9:.2g} GB of scratch disk, "
            f"{max(0, free) / 1e9:.2g} GB are free; raise the ephemeral storage of spec.workers.resources, or give fewer images",
            reason=Reason.INVALID_DATA,
        )


def sizes_of(frame: pd.DataFrame) -> dict[str, Size | None]:
    """The stored size of each column of images."""
    found: dict[str, Size | None] = {}
    for name in frame.columns:
        images = cached_images(frame[name])
        if images is not None:
            found[str(name)] = images.size
    return found
