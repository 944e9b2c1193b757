"""Weights of pretrained models: fetched from the object storage that the manifest names, and checked against its digest.

For every kind of data; what the files are is for the family to say that uses them. Nothing is ever fetched from elsewhere.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import AccessDenied, DataError, StorageError, StorageUnavailable, UsageError
from kubeautoml.api.search import Pretrained
from kubeautoml.storage import ObjectStore, download_folder, open_store
from kubeautoml.storage.base import safe_target

_PIECE_BYTES = 1 << 20
_LEFT = ".part"


def fetch_pretrained(
    wanted: Sequence[Pretrained], folder: Path, credentials_dir: Path | None = None, *, patience_seconds: float = 0.0
) -> dict[str, Path]:
    """Bring all weights of a job to this pod; returns the file or folder of each family.

    What is there already, of an earlier run in this pod, is read again for its digest but not fetched again.

    Args:
        folder: where they go, one below the other by digest.
        patience_seconds: how long each call waits for a storage that is away.

    Raises:
        DataError: reason InvalidSearch, or AccessDenied: weights are absent or may not be read, or their digest is not the one
            in the manifest.
        StorageUnavailable: the storage stayed away.
    """
    return {
        weights.family: _fetch(f"spec.search.pretrained[{k}]", weights, folder, credentials_dir, patience_seconds)
        for k, weights in enumerate(wanted)
    }


def _fetch(field: str, weights: Pretrained, folder: Path, credentials_dir: Path | None, patience: float) -> Path:
    target = folder / weights.sha256
    found = _there(target)
    if found is not None and digest(found) == weights.sha256:
        return found
    shutil.rmtree(target, ignore_errors=True)
    try:
        store = open_store(weights.uri, credentials_dir, patience_seconds=patience)
        fetched = _download(field, weights, store, target.with_name(target.name + _LEFT))
    except StorageUnavailable:
        raise
    except AccessDenied as error:
        raise DataError(f"{field}.uri: {error}", reason=Reason.ACCESS_DENIED) from error
    except (StorageError, UsageError) as error:
        raise _invalid(f"{field}.uri: {error}; see that the weights of {weights.family} are there") from error
    got = digest(fetched)
    if got != weights.sha256:
        raise _invalid(
            f"{field}.sha256 must be the digest of {weights.uri}, {got}, got '{weights.sha256}'; if you trust what is stored there, "
            "write its digest into a new job, else upload the weights again"
        )
    fetched.parent.rename(target)
    return target / fetched.name


def _download(field: str, weights: Pretrained, store: ObjectStore, target: Path) -> Path:
    """Fetch into a fresh folder; returns the file or folder within it."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    name = weights.uri.rstrip("/").rpartition("/")[2]
    fetched = safe_target(target, name, weights.uri)
    if weights.uri.endswith("/"):
        fetched.mkdir()
        download_folder(store, weights.uri, fetched)
        if not any(fetched.iterdir()):
            raise _invalid(
                f"{field}.uri: there is no file below {weights.uri}; upload the weights of {weights.family}, or correct the URI"
            )
    else:
        store.download(weights.uri, fetched)
    return fetched


def _there(target: Path) -> Path | None:
    found = list(target.iterdir()) if target.is_dir() else []
    return found[0] if len(found) == 1 else None


def digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's list of digests, as `spec.search.pretrained` wants it."""
    return folder_digest(path) if path.is_dir() else file_digest(path)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits; what `sha256sum FILE` prints."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            hasher.update(piece)
    return hasher.hexdigest()


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and digests of all files below a folder, hidden ones too; what this prints in it:
    find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum
    """
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = [_line(name, file_digest(folder / name)) for name in sorted(names, key=lambda n: f"./{n}".encode())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _line(name: str, sha256: str) -> str:
    """A line of sha256sum, which escapes backslashes and line ends in names and says so with a backslash in front."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == name else chr(92)}{sha256}  ./{escaped}\n"


def _invalid(message: str) -> DataError:
    return DataError(message, reason=Reason.INVALID_SEARCH)
