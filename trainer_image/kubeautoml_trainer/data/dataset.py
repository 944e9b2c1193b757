"""A source of rows to one raw frame, whatever it is made of: tables, a folder a class, tar shards, arrays; with its images in the cache.

What follows (types, folds, features) sees a table, some columns of which hold images (`data.image_cache.StoredImage`).
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from kubeautoml.api.conditions import Reason
from kubeautoml.api.dataset import DataFormat, DataSource
from kubeautoml.api.errors import DataError, StorageUnavailable
from kubeautoml.storage import ObjectStore, StoredObject, open_store
from kubeautoml.storage.base import glob_root, is_glob
from kubeautoml_trainer.data.asked import Asked
from kubeautoml_trainer.data.base import Dataset
from kubeautoml_trainer.data.image_cache import FETCHERS, ImageCache
from kubeautoml_trainer.data.image_sources import (
    Beside,
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
from kubeautoml_trainer.data.images import is_image_value
from kubeautoml_trainer.data.read import DECOMPRESS, find_files, read_files
from kubeautoml_trainer.data.read import SUFFIXES as TABLE_SUFFIXES
from kubeautoml_trainer.data.stored_images import with_stored_images
from kubeautoml_trainer.data.text_folder import is_text_name, text_folder_frame

PROBED = 20
"""Files that are looked for before a column of file names is taken for images, where images are not the point of the job."""


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
        held = [c for c in free if _may_hold_images(frame[c].dtype) and self._holds_images(frame[c])]
        texts = [c for c in free if c not in held and not pd.api.types.is_numeric_dtype(frame[c].dtype)]
        paths = columns_of_paths(frame, texts)
        if not self._asked.of_images:
            paths = [c for c in paths if self._are_there(frame[c], uri)]
        return [*forced, *held, *paths]

    def _holds_images(self, column: pd.Series) -> bool:
        return any(is_image_value(bytes_or_path(v)) for v in column.dropna().head(PROBED))

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


def _may_hold_images(dtype: Any) -> bool:
    """Whether values of a column may be bytes, arrays or mappings: numbers and texts are not asked one by one."""
    if not isinstance(dtype, pd.ArrowDtype):
        return bool(pd.api.types.is_object_dtype(dtype))
    kinds = (pa.types.is_nested, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(is_kind(dtype.pyarrow_dtype) for is_kind in kinds)
