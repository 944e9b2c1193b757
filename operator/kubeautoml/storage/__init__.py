"""Objects by URL: file:// and s3://, read and written the same way by operator and trainer."""

from __future__ import annotations

from pathlib import Path

from kubeautoml.api.errors import AccessDenied, StorageError, StorageUnavailable, UsageError
from kubeautoml.storage.base import ObjectStore, StoredObject, safe_target
from kubeautoml.storage.patient import PatientStore

__all__ = ["ObjectStore", "StoredObject", "check_writable", "download_folder", "open_store", "upload_folder"]

_WRITE_CHECK = ".kubeautoml-write-check"


def open_store(uri: str, credentials_dir: Path | None = None, *, patience_seconds: float = 0.0) -> ObjectStore:
    """The store that serves a URI. Opening connects to nothing.

    Args:
        patience_seconds: how long each call waits for a storage that is away.

    Raises:
        UsageError: the scheme is neither file nor s3.
        AccessDenied: `credentials_dir` is missing or holds half a key pair.
        StorageError: s3 is asked for and boto3 is not installed.
    """
    store = _store_of(uri, credentials_dir)
    return PatientStore(store, patience_seconds) if patience_seconds > 0 else store


def _store_of(uri: str, credentials_dir: Path | None) -> ObjectStore:
    if uri.startswith("file://"):
        from kubeautoml.storage.file import FileStore

        return FileStore()
    if uri.startswith("s3://"):
        try:
            from kubeautoml.storage.s3 import S3Store
        except ModuleNotFoundError as error:
            raise StorageError(f"{uri} needs boto3; install it with: pip install 'kubeautoml[s3]'") from error
        return S3Store(credentials_dir)
    raise UsageError(f"{uri} must start with s3:// or file://")


def download_folder(store: ObjectStore, uri: str, folder: Path) -> None:
    """Copy all objects below a prefix into a folder, hidden ones too, keeping their relative names."""
    prefix = uri.rstrip("/") + "/"
    for stored in store.find(prefix, hidden=True):
        store.download(stored.uri, safe_target(folder, _below(prefix, stored.uri), stored.uri))


def upload_folder(store: ObjectStore, folder: Path, uri: str) -> None:
    """Copy all files of a folder below a prefix, hidden ones too, keeping their relative names."""
    prefix = uri.rstrip("/") + "/"
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.upload(path, prefix + path.relative_to(folder).as_posix())


def check_writable(uri: str, credentials_dir: Path | None = None, *, patience_seconds: float = 0.0) -> None:
    """Write and delete a small object below a prefix, so that a wrong output location is found before hours of work.

    Raises:
        AccessDenied, StorageError: with reason OutputNotWritable and the line to show.
        StorageUnavailable: it was away all the time, so nothing is known.
    """
    probe = f"{uri.rstrip('/')}/{_WRITE_CHECK}"
    try:
        store = open_store(uri, credentials_dir, patience_seconds=patience_seconds)
        store.write(probe, b"")
        store.delete(probe)
    except StorageUnavailable:
        raise
    except (StorageError, UsageError) as error:
        kind = AccessDenied if isinstance(error, AccessDenied) else StorageError
        raise kind(f"output cannot be written: {error}", reason="OutputNotWritable") from error


def _below(prefix: str, uri: str) -> str:
    return uri.removeprefix(prefix)
