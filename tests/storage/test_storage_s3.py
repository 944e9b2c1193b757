"""What goes wrong with buckets, keys and endpoints, on a real S3 server: each message names the URI and what to do."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from kubeautoml.api.errors import AccessDenied, KubeAutoMLError, ObjectNotFound, StorageError
from kubeautoml.storage import ObjectStore, check_writable, open_store
from real.s3 import S3Server

pytestmark = pytest.mark.s3

SECRET = "do-not-show-this-secret"


@pytest.fixture
def store(s3_bucket: str, s3_credentials: Path) -> ObjectStore:
    return open_store(s3_bucket, s3_credentials)


def each_call(uri: str, folder: Path) -> dict[str, Callable[[ObjectStore], object]]:
    (folder / "source").write_bytes(b"x")
    return {
        "find": lambda store: store.find(uri),
        "find below": lambda store: store.find(uri + "/"),
        "read": lambda store: store.read(uri),
        "write": lambda store: store.write(uri, b"x"),
        "exists": lambda store: store.exists(uri),
        "download": lambda store: store.download(uri, folder / "copy"),
        "upload": lambda store: store.upload(folder / "source", uri),
        "delete": lambda store: store.delete(uri),
        "delete below": lambda store: store.delete(uri + "/"),
    }


def errors(store: ObjectStore, uri: str, folder: Path) -> dict[str, KubeAutoMLError]:
    found = {}
    for name, call in each_call(uri, folder).items():
        with pytest.raises(StorageError) as caught:
            call(store)
        found[name] = caught.value
    return found


def test_a_missing_bucket_is_named(store: ObjectStore, tmp_path: Path):
    """Every call says that it is the bucket, and where it was looked for."""
    bucket = f"missing-{uuid.uuid4().hex[:8]}"

    for name, error in errors(store, f"s3://{bucket}/a.csv", tmp_path).items():
        assert isinstance(error, ObjectNotFound), (name, error)
        assert f"bucket {bucket} does not exist at http://" in str(error), name


def test_wrong_keys_are_access_denied_and_never_shown(s3_server: S3Server, s3_bucket: str, tmp_path: Path):
    """Every call says so; neither the key nor the secret stands in the message."""
    wrong = s3_server.write_credentials(tmp_path / "wrong", AWS_ACCESS_KEY_ID="AKIAWRONG", AWS_SECRET_ACCESS_KEY=SECRET)

    for name, error in errors(open_store(s3_bucket, wrong), s3_bucket + "a.csv", tmp_path).items():
        assert isinstance(error, AccessDenied), (name, error)
        assert "check the keys in the secret" in str(error), name
        assert SECRET not in str(error), name
        assert "AKIAWRONG" not in str(error), name


def test_an_endpoint_that_nobody_serves_is_named(s3_server: S3Server, s3_bucket: str, tmp_path: Path):
    """The message holds the address that was tried."""
    away = s3_server.write_credentials(tmp_path / "away", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    store = open_store(s3_bucket, away)

    with pytest.raises(StorageError, match=r"cannot be reached at http://127\.0\.0\.1:9 .*check AWS_ENDPOINT_URL"):
        store.read(s3_bucket + "a.csv")


def test_keys_that_may_only_read_fail_the_write_check(s3_server: S3Server, s3_bucket: str, tmp_path: Path):
    """Found before the search, with the reason of the condition."""
    read_only = s3_server.write_read_only_credentials(tmp_path / "read-only")

    with pytest.raises(AccessDenied, match="output cannot be written") as caught:
        check_writable(s3_bucket + "models", read_only)

    assert caught.value.reason == "OutputNotWritable"
    assert open_store(s3_bucket, read_only).find(s3_bucket) == []


@pytest.mark.parametrize("files", [{}, {"AWS_ACCESS_KEY_ID": "AKIA"}, {"AWS_SECRET_ACCESS_KEY": SECRET}])
def test_half_a_secret_is_refused(s3_bucket: str, tmp_path: Path, files: dict[str, str]):
    """The message names the missing entry, and does not fall back to other credentials."""
    for name, value in files.items():
        (tmp_path / name).write_text(value)

    with pytest.raises(AccessDenied, match="missing: AWS_") as caught:
        open_store(s3_bucket, tmp_path)

    assert SECRET not in str(caught.value)


def test_without_a_secret_the_usual_places_are_asked(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """boto3's own chain: here the environment; with nothing there, the message says what to give."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in s3_server.settings:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AccessDenied, match="needs credentials and none were found"):
        open_store(s3_bucket).find(s3_bucket)
    for name, value in s3_server.settings.items():
        monkeypatch.setenv(name, value)

    assert open_store(s3_bucket).find(s3_bucket) == []


def test_a_bucket_name_that_cannot_be_is_refused(store: ObjectStore):
    """The rule, not a regular expression."""
    with pytest.raises(StorageError, match="bucket 'My_Bucket!' must be 3 to 63 lower-case letters"):
        store.read("s3://My_Bucket!/a.csv")


def test_more_objects_than_one_page_are_found_and_deleted(store: ObjectStore, s3_server: S3Server, s3_bucket: str):
    """Listing and deleting go on after the first thousand; folder markers are no objects."""
    bucket = s3_bucket.removeprefix("s3://").rstrip("/")
    client = s3_server.client
    for number in range(1005):
        client.put_object(Bucket=bucket, Key=f"many/{number:04}.csv", Body=b"")
    client.put_object(Bucket=bucket, Key="many/empty/", Body=b"")

    found = store.find(s3_bucket + "many/*.csv")

    assert len(found) == 1005
    assert store.delete(s3_bucket + "many/") == 1005
    assert store.find(s3_bucket, hidden=True) == []
