"""A source of rows to one raw frame, whatever it is made of: tables, a folder a class, tar shards, arrays; with its images in the cache.

What follows (types, folds, features) sees a table, some columns of which hold images (`data.image_cache.StoredImage`).
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kubeautoml.api.conditions import Reason
from kubeautoml.api.dataset import ColumnType, DataFormat, DataSource
from kubeautoml.api.errors import DataError, StorageUnavailable
from kubeautoml.api.pod import PodJob
from kubeautoml.storage import ObjectStore, StoredObject, open_store
from kubeautoml.storage.base import glob_root, is_glob
from kubeautoml_trainer.data.base import Schema
from kubeautoml_trainer.data.image_cache import FETCHERS, ImageCache, Size, StoredImage, cached_images
from kubeautoml_trainer.data.image_sources import (
    IMAGE,
    SOURCES,
    Beside,
    Inline,
    Remote,
    Span,
    bytes_or_path,
    columns_of_paths,
    folder_frame,
    is_image_name,
    named_images,
    npz_frame,
    shard_frame,
)
from kubeautoml_trainer.data.images import ImageError, is_image_value, pixels_of
from kubeautoml_trainer.data.read import DECOMPRESS, find_files, read_files
from kubeautoml_trainer.data.read import SUFFIXES as TABLE_SUFFIXES
from kubeautoml_trainer.data.text_folder import TEXT, is_text_name, text_folder_frame
from kubeautoml_trainer.tasks import POINT

PROBED = 20
"""Files that are looked for before a column of file names is taken for images, where images are not the point of the job."""


@dataclass(frozen=True)
class Asked:
    """What a job, or a model, wants to see in its rows.

    target: what a folder's names, or a shard's labels, are; None where there are none to be. images: columns that must hold images, with
    the size of each where it is settled. others: columns that are something else, and are not looked at. of_images: whether file names
    mean images even if the files are not there. is_test: of arrays for training and test, the test ones are meant. image: what the column
    of images is called where files have no header. skips: whether a few rows may be left out whose images cannot be read.
    only: whether no other columns than `images` are looked at.
    of_texts: whether many .txt files are a text each. text: what the column of these is called.
    """

    target: str | None = None
    images: Mapping[str, Size | None] = field(default_factory=dict)
    others: frozenset[str] = frozenset()
    of_images: bool = False
    is_test: bool = False
    image: str = IMAGE
    skips: bool = True
    only: bool = False
    of_texts: bool = False
    text: str = TEXT


def asked_by_job(job: PodJob) -> Asked:
    """What the training rows of a job are read with."""
    columns, split = job.dataset.columns, job.dataset.split
    others = {n for n, t in columns.types.items() if t is not ColumnType.IMAGE}
    named = (job.task.target, columns.weight, split.group_column, split.time_column, *columns.ignore)
    return Asked(
        target=job.task.target,
        images={n: None for n, t in columns.types.items() if t is ColumnType.IMAGE},
        others=frozenset(others | {n for n in named if n}),
        of_images=POINT.get(job.task.type) is ColumnType.IMAGE,
        of_texts=POINT.get(job.task.type) is ColumnType.TEXT,
    )


def asked_of_test(train: pd.DataFrame, job: PodJob) -> Asked:
    """What test rows are read with: their images as those of the training rows."""
    sizes = sizes_of(train)
    others = frozenset(str(c) for c in train.columns if c not in sizes)
    of_texts = POINT.get(job.task.type) is ColumnType.TEXT
    return Asked(target=job.task.target, images=sizes, others=others, is_test=True, of_texts=of_texts)


def asked_by_schema(schema: Schema) -> Asked:
    """What rows for a model are read with; every other column than its images is left as it is."""
    sizes = {
        c.name: Size(c.height, c.width, c.channels)
        for c in schema.features
        if c.type is ColumnType.IMAGE and c.height and c.width and c.channels
    }
    image = next(iter(sizes)) if len(sizes) == 1 else IMAGE
    texts = [c.name for c in schema.features if c.type is ColumnType.TEXT]
    text = texts[0] if len(texts) == 1 else TEXT
    is_one_text = len(texts) == len(schema.features) == 1
    return Asked(images=sizes, is_test=True, image=image, skips=False, only=True, of_texts=is_one_text, text=text)


@dataclass(frozen=True)
class Dataset:
    """Raw rows, and what is worth a warning about how they were read."""

    frame: pd.DataFrame
    warnings: tuple[str, ...] = ()


def read_dataset(
    source: DataSource,
    asked: Asked,
    cache: ImageCache,
    credentials_dir: Path | None = None,
    *,
    patience_seconds: float = 0.0,
) -> Dataset:
    """All rows of a source.

    Raises:
        DataError: a file is missing, empty or broken, or they do not belong together.
        StorageError: the storage refuses or does not answer.
    """
    store = open_store(source.uri, credentials_dir, patience_seconds=patience_seconds)
    uri = source.uri
    if (
        source.format in (DataFormat.IMAGE_FOLDER, DataFormat.TEXT_FOLDER)
        and not uri.endswith("/")
        and not is_glob(uri)
    ):
        uri += "/"
    objects = find_files(store, uri)
    kind = source.format if source.format is not DataFormat.AUTO else _format_of(objects, asked)
    said: tuple[str, ...] = ()
    cache.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".files-", dir=cache.folder) as kept:
        if kind is DataFormat.IMAGE_FOLDER:
            root = glob_root(uri) if is_glob(uri) else uri
            frame = folder_frame(objects, root, asked.target, store, asked.image)
        elif kind is DataFormat.TEXT_FOLDER:
            frame = text_folder_frame(objects, glob_root(uri) if is_glob(uri) else uri, asked.target, store, asked.text)
        elif kind is DataFormat.WEB_DATASET:
            frame = _shards(store, objects, asked, Path(kept))
        elif kind is DataFormat.NPZ:
            frame, said = _arrays(store, objects, asked)
        else:
            tables = _tables(objects) if kind is DataFormat.AUTO else objects
            frame = read_files(
                store, tables, source, _Naming(asked, Path(kept), Beside(objects), credentials_dir, patience_seconds)
            )
        key = "\0".join(f"{o.uri} {o.version}" for o in objects)
        stored = with_stored_images(frame, asked, cache, key, uri)
    return Dataset(stored.frame, (*said, *stored.warnings))


def _format_of(objects: Sequence[StoredObject], asked: Asked) -> DataFormat:
    """By the files' names; AUTO for tables, whose readers look at each name."""
    names = [o.uri.lower() for o in objects]
    if any(n.endswith((".tar", ".tar.gz", ".tgz")) for n in names):
        return DataFormat.WEB_DATASET
    if any(n.endswith(".npz") for n in names):
        return DataFormat.NPZ
    if any(map(is_image_name, names)) and not any(map(_is_table, names)):
        return DataFormat.IMAGE_FOLDER
    if asked.of_texts and len(objects) > 1 and all(map(is_text_name, names)):
        return DataFormat.TEXT_FOLDER  # elsewhere such files are tables
    return DataFormat.AUTO


def _tables(objects: list[StoredObject]) -> list[StoredObject]:
    """The tables among images; all files where there are no images, and what is wrong with their names will be said."""
    if not any(is_image_name(o.uri) for o in objects):
        return objects
    return [o for o in objects if _is_table(o.uri.lower())]


def _is_table(name: str) -> bool:
    for suffix in DECOMPRESS:
        name = name.removesuffix(suffix)
    # text files that lie beside images are mostly notes
    return name.endswith(tuple(s for s in TABLE_SUFFIXES if s != ".txt"))


def _shards(store: ObjectStore, objects: Sequence[StoredObject], asked: Asked, folder: Path) -> pd.DataFrame:
    """The samples of all shards, which lie on the disk until their images are in the cache."""
    needed, free = sum(o.size_bytes for o in objects), shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{len(objects)} tar files need {needed / 1e9:.2g} GB of scratch disk, {free / 1e9:.2g} GB are free; "
            "raise the ephemeral storage of spec.workers.resources, or give fewer of them",
            reason=Reason.INVALID_DATA,
        )
    paths = [folder / f"{k}.tar" for k in range(len(objects))]
    with ThreadPoolExecutor(FETCHERS) as pool:
        list(pool.map(lambda found, path: _fetch_shard(store, found.uri, path), objects, paths))
    named: dict[str, Any] = {"target": asked.target, "image": asked.image, "with_keys": not asked.skips}
    frames = [shard_frame(path, found.uri, **named) for path, found in zip(paths, objects, strict=True)]
    frame = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
    if not len(frame):
        raise DataError(
            f"{objects[0].uri} holds no samples; a sample is files such as 1.jpg and 1.cls", reason=Reason.DATASET_EMPTY
        )
    return frame


def _fetch_shard(store: ObjectStore, uri: str, path: Path) -> None:
    """A tar file to a path, as it is read there: not compressed."""
    if not uri.lower().endswith((".gz", ".tgz")):
        store.download(uri, path)
        return
    packed = path.with_suffix(".gz")
    store.download(uri, packed)
    try:
        with gzip.open(packed) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{uri} cannot be decompressed: {error}; upload it again", reason=Reason.DATASET_UNREADABLE
        ) from error
    packed.unlink()


def _arrays(store: ObjectStore, objects: Sequence[StoredObject], asked: Asked) -> tuple[pd.DataFrame, tuple[str, ...]]:
    each = [npz_frame(store.read(o.uri), o.uri, asked.target, asked.image, is_test=asked.is_test) for o in objects]
    return pd.concat([f for f, _ in each], ignore_index=True), tuple(w for _, said in each for w in said)


class _Naming:
    """Puts the images that tables name in the place of their names, file by file; the first file decides which columns do. Images that
    a table holds itself go to a file, so that memory holds those of one table only.
    """

    def __init__(
        self, asked: Asked, folder: Path, beside: Beside, credentials_dir: Path | None, patience_seconds: float
    ) -> None:
        self._beside = beside
        self._asked = asked
        self._held = folder / "held.bin"
        self._credentials_dir, self._patience_seconds = credentials_dir, patience_seconds
        self._stores: dict[str, ObjectStore] = {}
        self._columns: list[str] | None = None

    def __call__(self, frame: pd.DataFrame, uri: str) -> pd.DataFrame:
        if self._columns is None:
            self._columns = self._naming(frame, uri)
        named = {c: self._kept(self._named(frame[c], uri), uri) for c in self._columns if c in frame.columns}
        return frame.assign(**named) if named else frame

    def _kept(self, column: pd.Series, uri: str) -> pd.Series:
        """The column with spans of a file in place of bytes."""
        values = column.to_numpy().copy()
        with self._held.open("ab") as file:
            for row, value in enumerate(values):
                if isinstance(value, bytes):
                    values[row] = Span(self._held, file.tell(), len(value), f"'{column.name}' in row {row} of {uri}")
                    file.write(value)
        return pd.Series(values, dtype=object, index=column.index)

    def _named(self, column: pd.Series, uri: str) -> pd.Series:
        values = [bytes_or_path(v) for v in column]
        return pd.Series(
            named_images(values, uri, self._store, self._beside), dtype=object, index=column.index, name=column.name
        )

    def _naming(self, frame: pd.DataFrame, uri: str) -> list[str]:
        forced = [str(c) for c in frame.columns if c in self._asked.images]
        free = [str(c) for c in frame.columns if c not in self._asked.images and c not in self._asked.others]
        free = [] if self._asked.only else free
        held = [c for c in free if any(is_image_value(bytes_or_path(v)) for v in frame[c].dropna().head(PROBED))]
        texts = [c for c in free if c not in held and not pd.api.types.is_numeric_dtype(frame[c].dtype)]
        paths = columns_of_paths(frame, texts)
        if not self._asked.of_images:
            paths = [c for c in paths if self._are_there(frame[c], uri)]
        return [*forced, *held, *paths]

    def _are_there(self, column: pd.Series, uri: str) -> bool:
        """Whether one of the first files is there: a table may well hold names of files that nobody kept."""
        for source in self._named(column.dropna().drop_duplicates().head(PROBED), uri):
            if isinstance(source, Remote):
                try:
                    if source.store.exists(source.uri):
                        return True
                except StorageUnavailable:
                    raise
                except Exception:  # noqa: BLE001  # no access, no bucket: then it is a name and no more
                    continue
        return False

    def _store(self, uri: str) -> ObjectStore:
        scheme = uri.partition("://")[0]
        if scheme not in self._stores:
            self._stores[scheme] = open_store(uri, self._credentials_dir, patience_seconds=self._patience_seconds)
        return self._stores[scheme]


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


def sizes_of(frame: pd.DataFrame) -> dict[str, Size | None]:
    """The stored size of each column of images."""
    found: dict[str, Size | None] = {}
    for name in frame.columns:
        images = cached_images(frame[name])
        if images is not None:
            found[str(name)] = images.size
    return found
