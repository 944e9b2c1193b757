"""Where images lie: files, parts of tar shards, arrays; and how folders, tar shards and .npz files become raw frames of them."""

from __future__ import annotations

import io
import json
import posixpath
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import DataError
from kubeautoml.storage import ObjectStore, StoredObject
from kubeautoml_trainer.data.base import PATH
from kubeautoml_trainer.data.folders import below, classes_of_folders, objects_of, suffixes_of
from kubeautoml_trainer.data.images import SUFFIXES, ImageError

IMAGE, TEXT = "image", "text"
"""Names of the columns that files without a header become; a model that was trained on a table calls its images as that did."""


@dataclass(frozen=True, slots=True)
class Remote:
    """An object of a storage."""

    uri: str
    store: ObjectStore = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.uri

    def read(self) -> bytes:
        return self.store.read(self.uri)


@dataclass(frozen=True, slots=True)
class Span:
    """Some bytes of a file on this machine, whose path is nobody's business: it is another one on each pod."""

    path: Path = field(repr=False)
    offset: int
    length: int
    name: str

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.length)


@dataclass(frozen=True, slots=True)
class Inline:
    """An image that is in memory already; `value` as `data.images.pixels_of` takes it."""

    value: bytes | np.ndarray = field(repr=False)
    name: str

    def read(self) -> bytes | np.ndarray:
        return self.value


@dataclass(frozen=True, slots=True)
class Absent:
    """What a table names and nobody can have meant."""

    name: str
    why: str

    def read(self) -> bytes:
        raise ImageError(self.why)


SOURCES = (Remote, Span, Inline, Absent)


def is_image_name(text: str) -> bool:
    """Whether a path or URI ends as image files do."""
    return text.lower().endswith(SUFFIXES)


# A folder a class


def folder_frame(
    objects: Sequence[StoredObject], root: str, target: str | None, store: ObjectStore, image: str = IMAGE
) -> pd.DataFrame:
    """Columns `image` and `path`, and the target: the folder right below the root in which an image lies.

    Args:
        root: URI that ends in "/".
        target: name for the column of folders; None where there is none to be.

    Raises:
        DataError: there are no images, or some lie in no folder although they must.
    """
    found = [o for o in objects if is_image_name(o.uri)]
    if not found:
        raise DataError(
            f"there is no image below {root} (files end in {suffixes_of(objects)}); images end in {', '.join(SUFFIXES)}",
            reason=Reason.DATASET_EMPTY,
        )
    paths = [below(o.uri, root) for o in found]
    frame = pd.DataFrame({image: objects_of([Remote(o.uri, store) for o in found]), PATH: objects_of(paths)})
    if target is None:
        return frame
    if target in frame.columns:
        raise DataError(
            f"spec.task.target: '{target}' is the name of the images' own column; choose another, such as 'label'",
            reason=Reason.TARGET_UNUSABLE,
        )
    frame[target] = classes_of_folders(paths, root, target, "images", "cat/1.jpg")
    return frame


# WebDataset: tar shards


LABEL_SUFFIXES = ("cls", "cls.txt")


def shard_frame(
    path: Path, name: str, target: str | None, image: str = IMAGE, *, with_keys: bool = False
) -> pd.DataFrame:
    """The samples of one tar file, in its order: files with the same name up to the first dot are one.

    An image suffix gives column `image` (its bytes stay in the file), .cls the target, .txt column `text`, the fields of .json columns
    of their own; a field named like the target is the target. with_keys: column `path` says which sample a row is.

    Raises:
        DataError: it is no tar file, or is cut off.
    """
    samples: dict[str, dict[str, Any]] = {}
    try:
        _check_end(path)
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile() or posixpath.basename(member.name).startswith((".", "_")):
                    continue
                folder, base = posixpath.split(member.name)
                key, _, suffix = base.partition(".")
                sample = samples.setdefault(posixpath.join(folder, key), {})
                _add(sample, suffix.lower(), member, tar, path, name, target, image)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(
            f"{name} is no tar file, or is cut off: {error}; write it again", reason=Reason.DATASET_UNREADABLE
        ) from error
    if with_keys:
        for key, sample in samples.items():
            sample.setdefault(PATH, key)
    columns = dict.fromkeys(k for s in samples.values() for k in s)
    values = {c: objects_of([s.get(c) for s in samples.values()]) for c in columns}
    return pd.DataFrame(values).infer_objects()


def _check_end(path: Path) -> None:
    """A tar file ends in blocks of zeros; one that does not was cut off, which reading it would not tell.

    Raises:
        TarError: it does not.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - tarfile.BLOCKSIZE))
        if any(file.read()) or not path.stat().st_size:
            raise tarfile.ReadError("its end is missing")


def _add(
    sample: dict[str, Any],
    suffix: str,
    member: tarfile.TarInfo,
    tar: tarfile.TarFile,
    path: Path,
    name: str,
    target: str | None,
    image: str,
) -> None:
    where = f"{name}/{member.name}"
    if is_image_name(f".{suffix}"):
        before, _, _ = suffix.rpartition(".")
        sample[before or image] = Span(path, member.offset_data, member.size, where)
        return
    if suffix not in (*LABEL_SUFFIXES, "txt", "text", "json"):
        return
    file = tar.extractfile(member)
    assert file is not None
    try:
        text = file.read().decode("utf-8")
        if suffix == "json":
            fields = json.loads(text)
            if not isinstance(fields, dict):
                raise ValueError(f"must be an object, got a {type(fields).__name__}")
            sample.update({k: v for k, v in fields.items() if k not in sample or k == target})
        elif suffix in LABEL_SUFFIXES:
            sample.setdefault(target or "cls", text.strip())
        else:
            sample[TEXT] = text
    except ValueError as error:
        raise DataError(
            f"{where} cannot be read: {error}; write the shard again", reason=Reason.DATASET_UNREADABLE
        ) from error


# Arrays


_PAIRS = (
    ("x_train", "y_train"), ("train_images", "train_labels"), ("x", "y"), ("images", "labels"), ("image", "label"), ("data", "target"),
)  # fmt: skip
MAX_ARRAY_BYTES = 8 << 30
"""Of one file's arrays, which are read into memory; a few bytes can unpack to any number of them."""
_SOME = 50  # values that tell whether a column may hold paths at all
_TESTS = (("x_test", "y_test"), ("test_images", "test_labels"))


def npz_frame(
    data: bytes, name: str, target: str | None, image: str = IMAGE, *, is_test: bool = False
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Columns `image` and the target of numpy's .npz: arrays x and y, images and labels, data and target, or x_train and y_train (as in
    Keras' mnist.npz, of which a test file means x_test and y_test), in upper or lower case.

    x: (n, h, w), (n, h, w, 1, 3 or 4), (n, 1 or 3, h, w), or (n, pixels) of squares. uint8; other whole numbers from 0 to 255 and 16
    bits; booleans; floats from 0 to 1, or whole ones from 0 to 255.

    Raises:
        DataError: it holds other arrays.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            unpacked = sum(i.file_size for i in packed.infolist())
        if unpacked > MAX_ARRAY_BYTES:
            raise DataError(
                f"{name} must hold at most {MAX_ARRAY_BYTES >> 30} GiB, holds {unpacked / 2**30:.1f}; write several, or tar files",
                reason=Reason.INVALID_DATA,
            )
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {k.lower(): k for k in file.files}
            pair = next((p for p in ((*_TESTS, *_PAIRS) if is_test else _PAIRS) if p[0] in arrays), None)
            if pair is None:
                known = ", ".join(" and ".join(p) for p in _PAIRS)
                raise DataError(
                    f"{name} must hold arrays named {known}, has {', '.join(file.files)[:200] or 'none'}; "
                    "save it with np.savez(file, x=..., y=...)",
                    reason=Reason.DATASET_UNREADABLE,
                )
            x = file[arrays[pair[0]]]
            y = file[arrays[pair[1]]] if pair[1] in arrays else None
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{name} is no .npz file of plain arrays: {error}; save it with np.savez",
            reason=Reason.DATASET_UNREADABLE,
        ) from error
    pixels = _as_pixels(x, f"{name}: array {pair[0]}")
    columns: dict[str, Any] = {image: objects_of([Inline(p, f"{name}: {pair[0]}[{k}]") for k, p in enumerate(pixels)])}
    if y is not None and target is not None:
        y = y.reshape(len(y), -1)
        if len(y) != len(pixels) or y.shape[1] != 1:
            raise DataError(
                f"{name}: {pair[1]} must have one value for each of the {len(pixels)} images, has shape {y.shape}",
                reason=Reason.INVALID_DATA,
            )
        columns[target] = y[:, 0]
    unused = [t[0] for t in _TESTS if t[0] in arrays and t[0] != pair[0]]
    said = tuple(
        f"{u} of {name} is not used; name the file in spec.dataset.test, too, to evaluate on it" for u in unused
    )
    return pd.DataFrame(columns), said


def _as_pixels(x: np.ndarray, name: str) -> np.ndarray:
    """uint8 (n, h, w, c)."""
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] not in (1, 3, 4):
        x = np.moveaxis(x, 1, 3)
    if x.ndim == 2 and (side := round(x.shape[1] ** 0.5)) ** 2 == x.shape[1] and side > 1:
        x = x.reshape(len(x), side, side)
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or x.shape[3] not in (1, 3, 4) or not x.size:
        rule = "must have shape (images, height, width) or (images, height, width, 1, 3 or 4)"
        raise DataError(f"{name} {rule}, has {x.shape}", reason=Reason.INVALID_DATA)
    if x.dtype == np.uint8:
        return x
    if x.dtype == bool:
        return x.astype(np.uint8) * np.uint8(255)
    if x.dtype == np.uint16 and x.max() > 255:
        return (x >> 8).astype(np.uint8)
    if np.issubdtype(x.dtype, np.number) and not np.issubdtype(x.dtype, np.complexfloating):
        low, high = float(x.min()), float(x.max())
        if low >= 0 and high <= 1 and np.issubdtype(x.dtype, np.floating):
            return np.asarray(np.round(x * 255).astype(np.uint8))
        if low >= 0 and high <= 255 and (np.issubdtype(x.dtype, np.integer) or bool((x == np.floor(x)).all())):
            return x.astype(np.uint8)
        raise DataError(
            f"{name} must hold values from 0 to 255, or from 0 to 1, has {low:g} to {high:g}",
            reason=Reason.INVALID_DATA,
        )
    raise DataError(f"{name} must hold numbers, has {x.dtype}", reason=Reason.INVALID_DATA)


# Tables that name images


class Beside:
    """Images that lie in the same place as a table, for tables that name no more than the end of a path."""

    def __init__(self, objects: Iterable[StoredObject]) -> None:
        self._uris = {o.uri for o in objects if is_image_name(o.uri)}
        self._by_name: dict[str, str | None] = {}
        for uri in self._uris:
            name = posixpath.basename(uri)
            self._by_name[name] = None if name in self._by_name else uri

    def found(self, uri: str) -> str:
        """The URI, or the only one with its file name where nothing has the URI itself."""
        if uri in self._uris:
            return uri
        return self._by_name.get(posixpath.basename(uri)) or uri


def named_images(
    values: Iterable[Any], base: str, open_: Callable[[str], ObjectStore], beside: Beside | None = None
) -> np.ndarray:
    """Text values of a table as sources, object (n,): paths relative to the table's own folder, absolute ones, URIs, or base64.

    Args:
        base: URI of the table's file.
        open_: the store of a URI.
        beside: the images that were listed with the table.
    """
    beside = beside or Beside(())
    return objects_of([v if not isinstance(v, str) else _source(v.strip(), base, open_, beside) for v in values])


def _source(text: str, base: str, open_: Callable[[str], ObjectStore], beside: Beside) -> Any:
    if not text:
        return None
    scheme, colon, _ = text.partition("://")
    if not is_image_name(text) and not (colon and scheme in ("s3", "file")):
        return text  # base64, which is read where it is looked at
    if colon and scheme not in ("s3", "file"):
        return Absent(text, "must begin with s3:// or file://, or be a path relative to its table")
    uri = resolved(text, base)
    if uri is None:
        return Absent(text, "is a file of this machine, which a table in object storage must not name")
    found = uri if colon else beside.found(uri)
    return Remote(found, open_(found))


def resolved(text: str, base: str) -> str | None:
    """The URI that a table at `base` means; None for one that it must not name.

    >>> resolved("a/1.png", "s3://lake/x/labels.csv"), resolved("../b/1.png", "file:///d/x/labels.csv")
    ('s3://lake/x/a/1.png', 'file:///d/b/1.png')
    """
    scheme, _, rest = base.partition("://")
    if text.startswith("s3://"):
        return text
    if text.startswith("file://"):
        return text if scheme == "file" else None
    head, _, folder = rest.partition("/") if scheme == "s3" else ("", "", rest.lstrip("/"))
    path = text.replace("\\", "/")
    if scheme == "file":
        path = path.replace("%", "%25")
    joined = posixpath.normpath(posixpath.join("/", posixpath.dirname(folder), path))
    return f"{scheme}://{head}{joined}"


def columns_of_paths(frame: pd.DataFrame, names: Iterable[str], share: float = 0.9) -> list[str]:
    """Columns of text of which most values end as image files do; blank ones do not count."""
    found = []
    for name in names:
        column = frame[name]
        hits, texts = _image_names(_some(column))
        if not texts:
            column = column.dropna()
            hits, texts = _image_names(_some(column))
        # most columns hold something else: all their values would be looked at for nothing
        if hits < share / 2 * texts:
            continue
        hits, texts = _image_names(column)
        if texts and hits >= share * texts:
            found.append(name)
    return found


def _some(column: pd.Series) -> pd.Series:
    return column.iloc[:: max(1, len(column) // _SOME)]


def _image_names(values: pd.Series) -> tuple[int, int]:
    """How many of the texts that are not blank are names of images, and how many texts there are."""
    texts = [v for v in values if isinstance(v, str) and v.strip()]
    return sum(map(is_image_name, texts)), len(texts)


def bytes_or_path(value: Any) -> Any:
    """What {"bytes": ..., "path": ...} holds, as tools for data sets of images write it; any other value as it is."""
    if not isinstance(value, Mapping) or "bytes" not in value:
        return value
    return value["bytes"] if value["bytes"] is not None else value.get("path")
