"""Files as objects: what a bucket does not have, such as permissions, links and half-written files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kubeautoml.api.errors import ObjectNotFound, StorageError, UsageError
from kubeautoml.storage import check_writable, download_folder, open_store
from kubeautoml.storage.base import safe_target

STORE = open_store("file:///")


def test_a_relative_path_is_refused():
    """file:// takes absolute paths only."""
    with pytest.raises(UsageError, match="must be file:// and an absolute path"):
        STORE.read("file://data/train.csv")


def test_a_folder_read_as_a_file_is_explained(tmp_path: Path):
    """The message says how to mean all files below it."""
    with pytest.raises(ObjectNotFound, match="is a folder, not a file; end it with '/'"):
        STORE.read(f"file://{tmp_path}")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path):
    """A copy that breaks off changes nothing and leaves no partial file."""
    (tmp_path / "a.bin").write_bytes(b"old")

    with pytest.raises(ObjectNotFound):
        STORE.upload(tmp_path / "missing", f"file://{tmp_path}/a.bin")

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.bin": b"old"}


def test_a_written_file_is_as_shared_as_any_other(tmp_path: Path):
    """Permissions follow the umask, not those of a private temporary file."""
    STORE.write(f"file://{tmp_path}/a.bin", b"")
    (tmp_path / "b.bin").write_bytes(b"")

    assert (tmp_path / "a.bin").stat().st_mode == (tmp_path / "b.bin").stat().st_mode


def test_linked_folders_are_followed(tmp_path: Path):
    """Volumes are often mounted as links."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.csv").write_text("x")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "real")

    assert [s.uri for s in STORE.find(f"file://{tmp_path}/data/")] == [f"file://{tmp_path}/data/link/a.csv"]


def test_a_place_below_a_file_cannot_be_written(tmp_path: Path):
    """The check names the location, the rule and the reason of the condition."""
    (tmp_path / "taken").write_text("")

    with pytest.raises(StorageError, match="output cannot be written: file://") as caught:
        check_writable(f"file://{tmp_path}/taken/models")

    assert caught.value.reason == "OutputNotWritable"


def test_a_folder_without_permission_is_access_denied(tmp_path: Path):
    """As a user other than root, for whom permissions count."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    code = (
        "import os, sys\n"
        "from kubeautoml.storage import check_writable, open_store\n"
        "open_store('file:///')  # imports before the change of user, who may not read the packages\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "try: check_writable(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    _let_others_in(tmp_path)

    done = subprocess.run([sys.executable, "-c", code, f"file://{locked}"], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("AccessDenied output cannot be written")
    assert "change the permissions or the path" in done.stdout


def _let_others_in(folder: Path) -> None:
    """pytest's temporary folders are private to the user that runs it."""
    for parent in (folder, *folder.parents):
        if parent.name.startswith("pytest-") or "pytest-" in str(parent.parent):
            parent.chmod(0o755)


def test_an_object_cannot_leave_the_folder_it_is_copied_to(tmp_path: Path):
    """A name with ".." would write elsewhere."""
    with pytest.raises(StorageError, match="must not hold"):
        safe_target(tmp_path, "../outside", "s3://b/m/../outside")


def test_a_missing_folder_is_copied_as_nothing(tmp_path: Path):
    """No objects, no files."""
    download_folder(STORE, f"file://{tmp_path}/nope", tmp_path / "copy")

    assert not (tmp_path / "copy").exists()


def test_files_need_no_boto3():
    """The light path stays light."""
    code = (
        "import sys, kubeautoml.storage as s; s.open_store('file:///x'); print([m for m in sys.modules if 'boto' in m])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
