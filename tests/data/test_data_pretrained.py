"""Weights of pretrained models: fetched from a file, a folder or a bucket, and refused unless their digest is the one asked for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import DataError
from kubeautoml.api.search import Pretrained
from kubeautoml.storage import open_store, upload_folder
from kubeautoml_trainer.pretrained import digest, fetch_pretrained, file_digest, folder_digest

FILES = {
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 9000,
    "sub/a b.txt": b"x",
    "sub-1.txt": b"",
    ".hidden": b"h",
    "sub/Zß\\n.txt": b"z",
    "line\nend": b"l",
}


def make_weights(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    for name, content in (FILES if files is None else files).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def wanted(uri: str, sha256: str, family: str = "Big") -> Pretrained:
    return Pretrained(family=family, uri=uri, sha256=sha256)


def printed(command: str, folder: Path) -> str:
    return subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, check=True).stdout.split()[0]


def test_digests_are_what_the_documented_commands_print(tmp_path):
    """Whatever the names: hidden, in folders, with spaces, backslashes, line ends or letters of any script."""
    folder = make_weights(tmp_path / "w")

    of_folder = printed("find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum", folder)

    assert folder_digest(folder) == digest(folder) == of_folder
    assert file_digest(folder / "model.safetensors") == printed("sha256sum model.safetensors", folder)


def test_a_changed_name_or_byte_changes_a_folders_digest(tmp_path):
    """So no file can be swapped, added or renamed."""
    plain = {"a": b"1", "b": b"2"}
    others = [{"a": b"2", "b": b"1"}, {"a": b"1", "c": b"2"}, {**plain, "c": b""}, {"a": b"1"}]
    folders = [make_weights(tmp_path / str(k), files) for k, files in enumerate([plain, *others])]

    assert len({folder_digest(f) for f in folders}) == len(folders)


def test_a_file_and_a_folder_are_fetched_with_their_names(tmp_path):
    """Whole, and under the scratch folder only."""
    source = make_weights(tmp_path / "store/w")
    file = source / "model.safetensors"
    asked = [
        wanted(f"file://{source}/", folder_digest(source), "Big"),
        wanted(f"file://{file}", file_digest(file), "Small"),
    ]

    found = fetch_pretrained(asked, tmp_path / "scratch")

    assert found["Big"].name == "w" and found["Small"].name == "model.safetensors"
    assert {
        p.relative_to(found["Big"]).as_posix(): p.read_bytes() for p in found["Big"].rglob("*") if p.is_file()
    } == FILES
    assert found["Small"].read_bytes() == FILES["model.safetensors"]
    assert all(p.is_relative_to(tmp_path / "scratch") for p in found.values())


def test_what_is_there_is_not_fetched_again_unless_it_was_damaged(tmp_path):
    """A worker that starts again in its pod finds the files; their digest is taken anew each time."""
    source = make_weights(tmp_path / "w")
    asked = [wanted(f"file://{source}/", folder_digest(source))]
    first = fetch_pretrained(asked, tmp_path / "scratch")["Big"]
    for path in source.rglob("*.json"):
        path.unlink()

    again = fetch_pretrained(asked, tmp_path / "scratch")["Big"]
    (first / "config.json").write_bytes(b"damaged")
    with pytest.raises(DataError, match="must be the digest of"):
        fetch_pretrained(asked, tmp_path / "scratch")

    assert again == first


def test_a_wrong_digest_is_refused_in_one_line(tmp_path):
    """Which field, where, what was expected, what was found, what to do; and nothing is left to be used by mistake."""
    source = make_weights(tmp_path / "w")
    asked = [wanted(f"file://{source}/", 64 * "0")]

    with pytest.raises(DataError) as refused:
        fetch_pretrained(asked, tmp_path / "scratch")

    assert str(refused.value) == (
        f"spec.search.pretrained[0].sha256 must be the digest of file://{source}/, {folder_digest(source)}, got "
        f"'{64 * '0'}'; if you trust what is stored there, write its digest into a new job, else upload the weights again"
    )
    assert refused.value.reason == Reason.INVALID_SEARCH
    assert not (tmp_path / "scratch" / (64 * "0")).exists()


@pytest.mark.parametrize("uri", ["file://{0}/absent.bin", "file://{0}/absent/", "file://{0}/w"])
def test_weights_that_are_not_there_are_refused_in_one_line(tmp_path, uri):
    """A file, a folder, and a folder without its slash."""
    make_weights(tmp_path / "w")

    with pytest.raises(DataError) as refused:
        fetch_pretrained([wanted(uri.format(tmp_path), 64 * "0")], tmp_path / "scratch")

    message = str(refused.value)
    assert message.startswith("spec.search.pretrained[0].uri: ") and "\n" not in message
    assert uri.format(tmp_path).rstrip("/") in message and "weights of Big" in message
    assert refused.value.reason == Reason.INVALID_SEARCH


@pytest.mark.s3
def test_weights_come_from_a_bucket_with_the_datas_credentials(tmp_path, s3_server, s3_bucket, s3_credentials):
    """Found and checked; without the right keys the reason is AccessDenied."""
    source = make_weights(tmp_path / "w", {"config.json": b"{}", "deep/model.safetensors": b"abc"})
    uri = f"{s3_bucket}weights/v1/"
    upload_folder(open_store(uri, s3_credentials), source, uri)

    found = fetch_pretrained([wanted(uri, folder_digest(source))], tmp_path / "scratch", s3_credentials)

    assert (found["Big"] / "deep/model.safetensors").read_bytes() == b"abc"
    with pytest.raises(DataError, match=r"pretrained\[0\]\.uri: .*absent") as refused:
        fetch_pretrained([wanted(f"{s3_bucket}absent/", 64 * "0")], tmp_path / "scratch", s3_credentials)
    assert refused.value.reason == Reason.INVALID_SEARCH
    wrong = s3_server.write_credentials(tmp_path / "wrong", AWS_SECRET_ACCESS_KEY="wrong")
    with pytest.raises(DataError) as denied:
        fetch_pretrained([wanted(uri, folder_digest(source))], tmp_path / "other", wrong)
    assert denied.value.reason == Reason.ACCESS_DENIED
