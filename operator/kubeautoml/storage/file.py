"""Objects as files: file:///absolute/path. For runs on a laptop and for volumes that the profile mounts."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from kubeautoml.api.errors import AccessDenied, ObjectNotFound, StorageError, StorageUnavailable, UsageError
from kubeautoml.storage.base import StoredObject, glob_regex, glob_root, is_glob, is_hidden

_SCHEME = "file://"
_TEMPORARY = ".kubeautoml-partial-"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_NOW = (errno.EAGAIN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT)
"""What a network file system says while its server is away."""


class FileStore:
    """Files of this machine. A percent sign in a path is written %25, as in every URI."""

    def find(self, uri: str, hidden: bool = False) -> list[StoredObject]:
        path = _path_text(uri)
        with _translated(uri):
            if is_glob(path):
                regex = glob_regex(path, hidden)
                found = [file for file in _files_below(glob_root(path)) if regex.fullmatch(file)]
            elif path.endswith("/"):
                found = [file for file in _files_below(path) if hidden or not is_hidden(file.removeprefix(path))]
            else:
                found = [path] if Path(path).is_file() else []
            return sorted(filter(None, map(_stored, found)), key=lambda stored: stored.uri)

    def read(self, uri: str) -> bytes:
        with _translated(uri):
            return _object_path(uri).read_bytes()

    def write(self, uri: str, data: bytes) -> None:
        with _translated(uri), _complete_or_absent(_object_path(uri)) as partial:
            partial.write_bytes(data)

    def exists(self, uri: str) -> bool:
        with _translated(uri):
            return Path(_path_text(uri)).is_file() and not uri.endswith("/")

    def download(self, uri: str, path: Path) -> None:
        source = _object_path(uri)
        with _translated(uri), _complete_or_absent(path) as partial:
            shutil.copyfile(source, partial)

    def upload(self, path: Path, uri: str) -> None:
        with _translated(uri), _complete_or_absent(_object_path(uri)) as partial:
            shutil.copyfile(path, partial)

    def delete(self, uri: str) -> int:
        path = Path(_path_text(uri))
        with _translated(uri):
            if not uri.endswith("/"):
                existed = path.is_file()
                path.unlink(missing_ok=True)
                return int(existed)
            count = sum(1 for _ in _files_below(_path_text(uri)))
            if path.is_dir():
                shutil.rmtree(path)
            return count


def _path_text(uri: str) -> str:
    path = unquote(uri.removeprefix(_SCHEME))
    if not uri.startswith(_SCHEME) or not path.startswith("/"):
        raise UsageError(f"{uri} must be file:// and an absolute path, such as file:///data/train.csv")
    return path


def _object_path(uri: str) -> Path:
    if uri.endswith("/"):
        raise UsageError(f"{uri} must name one file here, not a folder; leave out the '/' at its end")
    return Path(_path_text(uri))


def file_uri(path: str) -> str:
    """The URI of an absolute path; readable, with only the percent sign escaped."""
    return _SCHEME + path.replace("%", "%25")


def _files_below(folder: str) -> Iterator[str]:
    """Paths of all files below a folder that ends in "/"; unreadable folders raise, a missing one is empty."""
    if not Path(folder).is_dir():
        return
    for parent, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        folders.sort()
        yield from (str(Path(parent, name)) for name in files if not name.startswith(_TEMPORARY))


def _raise(error: OSError) -> None:
    raise error


def _stored(path: str) -> StoredObject | None:
    try:
        status = Path(path).stat()
    except FileNotFoundError:  # deleted between listing and looking
        return None
    return StoredObject(file_uri(path), status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}")


def _partial_beside(path: Path) -> Path:
    handle, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
    os.close(handle)
    umask = os.umask(0)
    os.umask(umask)
    Path(name).chmod(0o666 & ~umask)  # mkstemp makes it private; an object is as shared as any new file
    return Path(name)


def _make_folder(folder: Path) -> None:
    """The folder and those above it.

    Raises:
        StorageError: a file has the name of one of them.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        file = next(p for p in (folder, *folder.parents) if p.is_file())
        raise StorageError(
            f"{file_uri(str(file))} must be a folder, it is a file; move it away, or choose another path"
        ) from error


@contextmanager
def _complete_or_absent(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its name when the block ends well."""
    _make_folder(path.parent)
    partial = _partial_beside(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ObjectNotFound(f"{uri} does not exist; check the path, and that the volume is mounted") from error
    except IsADirectoryError as error:
        raise ObjectNotFound(f"{uri} is a folder, not a file; end it with '/' to mean all files below it") from error
    except PermissionError as error:
        raise AccessDenied(
            f"{uri} is not accessible to this user ({error.strerror}: {error.filename}); "
            "change the permissions or the path"
        ) from error
    except OSError as error:
        if error.errno in _FULL:
            raise StorageError(
                f"{uri}: no space is left for it ({error.strerror}); free some, or give the volume more"
            ) from error
        kind = StorageUnavailable if error.errno in _NOT_NOW else StorageError
        raise kind(f"{uri} cannot be used: {error.strerror or error}; check the disk and the path") from error
