"""What holds for objects under every scheme: files and S3."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from kubeautoml.api.errors import ObjectNotFound, UsageError
from kubeautoml.storage import check_writable, download_folder, open_store, upload_folder

TREE = (
    "part-0.csv",
    "part-1.csv",
    "part-10.csv",
    "notes.txt",
    "_SUCCESS",
    ".hidden.csv",
    "2024/a.csv",
    "2024/01/b.csv",
    "_temporary/c.csv",
)


@pytest.fixture
def tree(place: Any) -> Any:
    for key in TREE:
        place.store.write(place.root + key, key.encode())
    return place


def keys(place: Any, uri: str, **options: bool) -> list[str]:
    return [stored.uri.removeprefix(place.root) for stored in place.store.find(place.root + uri, **options)]


def test_an_object_is_read_as_it_was_written(place: Any):
    """Any bytes, any depth, replaced when written again."""
    uri = place.root + "a/b c/é+%25.bin"
    place.store.write(uri, b"old")
    place.store.write(uri, bytes(range(256)))

    assert place.store.read(uri) == bytes(range(256))
    assert place.store.exists(uri)


def test_a_found_object_tells_size_and_version(place: Any):
    """The version changes with the content; the URI can be read as it is."""
    uri = place.root + "a/100%25 sure.csv"
    place.store.write(uri, b"one")
    (first,) = place.store.find(uri)
    place.store.write(uri, b"three")
    (second,) = place.store.find(uri)

    assert (first.uri, first.size_bytes, second.size_bytes) == (uri, 3, 5)
    assert first.version != second.version
    assert place.store.read(second.uri) == b"three"


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("part-0.csv", ["part-0.csv"]),
        ("", ["2024/01/b.csv", "2024/a.csv", "notes.txt", "part-0.csv", "part-1.csv", "part-10.csv"]),
        ("2024/", ["2024/01/b.csv", "2024/a.csv"]),
        ("*.csv", ["part-0.csv", "part-1.csv", "part-10.csv"]),
        ("part-?.csv", ["part-0.csv", "part-1.csv"]),
        ("*/a.csv", ["2024/a.csv"]),
        ("20*/*/b.csv", ["2024/01/b.csv"]),
        ("**/*.csv", ["2024/01/b.csv", "2024/a.csv", "part-0.csv", "part-1.csv", "part-10.csv"]),
        ("**/b.csv", ["2024/01/b.csv"]),
        ("2024/**", ["2024/01/b.csv", "2024/a.csv"]),
        ("_S*", ["_SUCCESS"]),
        ("_temporary/*", ["_temporary/c.csv"]),
        ("part", []),
        ("2024", []),
        ("nothing/", []),
        ("nothing/*.csv", []),
        ("part-[01].csv", []),
    ],
)
def test_a_uri_finds(tree: Any, uri: str, found: list[str]):
    """One object, a prefix or a glob, sorted; names that start with "." or "_" only when they are spelt."""
    assert keys(tree, uri) == found


def test_hidden_objects_are_found_on_request(tree: Any):
    """Copies of a folder are complete."""
    assert keys(tree, "", hidden=True) == sorted(TREE)


def test_a_large_file_goes_up_and_down(place: Any, tmp_path: Path):
    """More than one part of a multipart transfer, in a folder that is made for it."""
    source, copy = tmp_path / "source.bin", tmp_path / "new" / "copy.bin"
    source.write_bytes(os.urandom(20 * 2**20))

    place.store.upload(source, place.root + "big.bin")
    place.store.download(place.root + "big.bin", copy)

    assert copy.read_bytes() == source.read_bytes()
    assert [path.name for path in copy.parent.iterdir()] == ["copy.bin"]


def test_a_folder_goes_up_and_down(place: Any, tmp_path: Path):
    """Relative names stay, hidden files come along."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    for name in ("bundle.json", "members/0/.meta", "members/0/model.txt"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)

    upload_folder(place.store, source, place.root + "model")
    download_folder(place.store, place.root + "model/", copy)

    copied = {path.relative_to(copy).as_posix(): path.read_text() for path in copy.rglob("*") if path.is_file()}
    assert copied == {name: name for name in ("bundle.json", "members/0/.meta", "members/0/model.txt")}


def test_deleting_says_how_many(tree: Any):
    """An object, a prefix with all below it, and nothing."""
    counts = [tree.store.delete(tree.root + uri) for uri in ("notes.txt", "notes.txt", "2024/", "2024/", "")]

    assert counts == [1, 0, 2, 0, 6]
    assert keys(tree, "", hidden=True) == []


@pytest.mark.parametrize("call", ["read", "download"])
def test_a_missing_object_is_named(place: Any, call: str, tmp_path: Path):
    """The message holds the URI; no file is left where the copy was to go."""
    uri = place.root + "nope.csv"
    arguments = {"read": [uri], "download": [uri, tmp_path / "copy"]}[call]

    with pytest.raises(ObjectNotFound, match=r"nope\.csv does not exist"):
        getattr(place.store, call)(*arguments)
    assert list(tmp_path.glob("copy*")) == []


def test_a_missing_object_does_not_exist(place: Any):
    """Neither an object nor an empty prefix nor a part of a name."""
    place.store.write(place.root + "a/b.csv", b"")

    there = [key for key in ("a/b.csv", "a/b", "a", "x/y") if place.store.exists(place.root + key)]

    assert there == ["a/b.csv"]


def test_a_prefix_is_no_object(place: Any):
    """Reading or writing a folder is a mistake that the message explains."""
    with pytest.raises(UsageError, match="leave out the '/'"):
        place.store.write(place.root + "a/", b"")
    with pytest.raises(UsageError, match="leave out the '/'"):
        place.store.read(place.root + "a/")


def test_a_writable_place_passes_the_check_and_stays_clean(place: Any):
    """The check leaves nothing behind."""
    check_writable(place.root + "models/", place.credentials_dir)

    assert keys(place, "", hidden=True) == []


def test_another_scheme_is_refused():
    """The message says which are possible."""
    with pytest.raises(UsageError, match="must start with s3:// or file://"):
        open_store("gs://lake/churn.csv")
