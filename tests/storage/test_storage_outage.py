"""A storage that is away, slow to say no, or cut off in the middle: what is only for now, what is for good, and what is waited for."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kubeautoml.api.errors import AccessDenied, KubeAutoMLError, ObjectNotFound, StorageError, StorageUnavailable
from kubeautoml.storage import ObjectStore, check_writable, open_store
from kubeautoml.storage.patient import PatientStore
from real.proxy import Answer, Cut, CutAfter, FaultyProxy, Lost, Mode, faulty_proxy
from real.restartable import restartable_s3
from real.s3 import S3Server

ATTEMPTS = 3
"""How often the client asks by itself before a call fails."""
PAYLOAD = bytes(range(256)) * 4096


class Away:
    """A store that fails so often before it answers."""

    def __init__(
        self, failures: int, error: Callable[[], KubeAutoMLError] = lambda: StorageUnavailable("away")
    ) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    def read(self, uri: str) -> bytes:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error()
        return b"there"


class Time:
    """A clock that moves when one sleeps."""

    def __init__(self) -> None:
        self.now, self.waits = 0.0, list[float]()

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def patient(store: Any, seconds: float) -> tuple[PatientStore, Time]:
    time_ = Time()
    return PatientStore(store, seconds, sleep=time_.sleep, clock=lambda: time_.now), time_


def test_a_patient_store_waits_longer_and_longer():
    """Each wait is at most twice the one before, with a random part, and never above ten seconds."""
    store, time_ = patient(Away(8), 120.0)

    assert store.read("s3://a/b") == b"there"
    limits = [0.5, 1, 2, 4, 8, 10, 10, 10]
    assert all(most / 2 <= got <= most for got, most in zip(time_.waits, limits, strict=True))


def test_patience_ends():
    """The last error is raised, and not a moment later than was said."""
    store, time_ = patient(Away(10_000), 60.0)

    with pytest.raises(StorageUnavailable, match="away"):
        store.read("s3://a/b")
    assert 45 < time_.now <= 60


@pytest.mark.parametrize("kind", [ObjectNotFound, AccessDenied, StorageError])
def test_what_waiting_does_not_change_is_said_at_once(kind: type[StorageError]):
    """A missing object, a wrong key, a full disk."""
    away = Away(1, lambda: kind("no"))
    store, time_ = patient(away, 60.0)

    with pytest.raises(kind):
        store.read("s3://a/b")
    assert (away.calls, time_.waits) == (1, [])


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, StorageError, "no space is left"),
        (errno.EDQUOT, StorageError, "no space is left"),
        (errno.ESTALE, StorageUnavailable, "cannot be used"),
        (errno.EIO, StorageUnavailable, "cannot be used"),
        (errno.ENAMETOOLONG, StorageError, "cannot be used"),
    ],
)
def test_a_disk_in_trouble_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind, words: str
):
    """Full is for the owner to mend; what a network file system says while its server is away passes. The old file stays."""
    uri = f"file://{tmp_path}/a.bin"
    open_store(uri).write(uri, b"old")

    def fail(self: Path, data: bytes) -> int:
        raise OSError(number, "trouble")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(StorageError, match=words) as caught:
        open_store(uri).write(uri, b"new")

    assert type(caught.value) is kind
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.bin": b"old"}


# A real server behind a proxy


@pytest.fixture(scope="module")
def proxy(s3_server: S3Server) -> Iterator[FaultyProxy]:
    with faulty_proxy(int(s3_server.endpoint_url.rsplit(":", 1)[1]), http=True) as proxy:
        yield proxy


@pytest.fixture
def behind(proxy: FaultyProxy, s3_server: S3Server, s3_bucket: str, tmp_path: Path) -> Iterator[ObjectStore]:
    """The bucket's store, through the proxy; with an object a.bin."""
    credentials = s3_server.write_credentials(tmp_path / "proxied", AWS_ENDPOINT_URL=f"http://127.0.0.1:{proxy.port}")
    store = open_store(s3_bucket, credentials)
    store.write(s3_bucket + "a.bin", PAYLOAD)
    yield store
    proxy.set_mode(Mode.OPEN)


def answer(status: int, code: str) -> Answer:
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>scripted</Message></Error>'
    return Answer(status, {"Content-Type": "application/xml"}, body.encode())


@pytest.mark.s3
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (answer(503, "SlowDown"), StorageUnavailable),
        (answer(500, "InternalError"), StorageUnavailable),
        (answer(502, ""), StorageUnavailable),
        (answer(429, "TooManyRequests"), StorageUnavailable),
        (Cut(), StorageUnavailable),
        (answer(403, "AccessDenied"), AccessDenied),
        (answer(403, "ExpiredToken"), AccessDenied),
        (answer(404, "NoSuchKey"), ObjectNotFound),
        (answer(404, "NoSuchBucket"), ObjectNotFound),
        (answer(400, "InvalidRequest"), StorageError),
        (answer(501, "NotImplemented"), StorageError),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)[:60]),
)
def test_what_passes_is_told_from_what_stays(behind: ObjectStore, proxy: FaultyProxy, s3_bucket: str, fault, kind):
    """The server's own trouble and the network's are for now; a refusal and a missing object are for good."""
    proxy.once(fault, method="GET", path="a.bin", times=ATTEMPTS)
    try:
        with pytest.raises(StorageError) as caught:
            behind.read(s3_bucket + "a.bin")
    finally:
        while not proxy.is_done:  # a refusal is not asked for again
            with pytest.raises(StorageError):
                behind.read(s3_bucket + "a.bin")

    assert type(caught.value) is kind
    assert behind.read(s3_bucket + "a.bin") == PAYLOAD


@pytest.mark.s3
def test_an_answer_that_is_cut_off_is_never_taken_as_whole(behind: ObjectStore, proxy: FaultyProxy, s3_bucket: str):
    """Reading fails for now; with patience the whole object comes."""
    proxy.once(CutAfter(200_000), method="GET", path="a.bin")
    with pytest.raises(StorageUnavailable, match="ResponseStreamingError"):
        behind.read(s3_bucket + "a.bin")

    proxy.once(CutAfter(200_000), method="GET", path="a.bin", times=2)
    assert PatientStore(behind, 60.0).read(s3_bucket + "a.bin") == PAYLOAD
    assert proxy.is_done


@pytest.mark.s3
def test_a_download_that_is_cut_off_leaves_no_file(
    behind: ObjectStore, proxy: FaultyProxy, s3_bucket: str, tmp_path: Path
):
    """It is begun again; a file appears only when it is whole."""
    copy = tmp_path / "copies" / "a.bin"
    proxy.once(CutAfter(200_000), method="GET", path="a.bin")

    behind.download(s3_bucket + "a.bin", copy)

    assert copy.read_bytes() == PAYLOAD
    assert [p.name for p in copy.parent.iterdir()] == ["a.bin"]


@pytest.mark.s3
def test_bytes_that_changed_on_the_way_are_noticed(
    behind: ObjectStore, s3_server: S3Server, s3_bucket: str, tmp_path: Path
):
    """An object carries the digest of what was written; one without, such as a user's, is taken as it is."""
    bucket = s3_bucket.removeprefix("s3://").rstrip("/")
    s3_server.client.put_object(Bucket=bucket, Key="b.bin", Body=b"changed", Metadata={"sha256": "0" * 64})
    s3_server.client.put_object(Bucket=bucket, Key="theirs.csv", Body=b"x\n1\n")

    with pytest.raises(StorageUnavailable, match=r"b\.bin did not arrive as it was written"):
        behind.read(s3_bucket + "b.bin")
    assert behind.read(s3_bucket + "theirs.csv") == b"x\n1\n"


@pytest.mark.s3
def test_a_write_whose_answer_is_lost_is_written_again(behind: ObjectStore, proxy: FaultyProxy, s3_bucket: str):
    """Once or twice is the same: there is one object, whole."""
    proxy.once(Lost(), method="PUT", path="c.bin")

    behind.write(s3_bucket + "c.bin", PAYLOAD)

    assert behind.read(s3_bucket + "c.bin") == PAYLOAD


@pytest.mark.s3
def test_an_upload_that_is_cut_off_leaves_the_old_object(s3_server: S3Server, s3_bucket: str, tmp_path: Path):
    """Half of the new one is nowhere; neither in one piece nor in parts."""
    target = int(s3_server.endpoint_url.rsplit(":", 1)[1])
    with faulty_proxy(target) as proxy:
        away = s3_server.write_credentials(tmp_path / "proxied", AWS_ENDPOINT_URL=f"http://127.0.0.1:{proxy.port}")
        store = open_store(s3_bucket, away)
        (tmp_path / "large.bin").write_bytes(b"new" * 12_000_000)
        acts: dict[str, Callable[[], None]] = {
            "a.bin": lambda: store.write(s3_bucket + "a.bin", b"new" * 4_000_000),
            "large.bin": lambda: store.upload(tmp_path / "large.bin", s3_bucket + "large.bin"),
        }
        for name, act in acts.items():
            proxy.set_mode(Mode.OPEN)
            proxy.set_delay(0.0)
            store.write(s3_bucket + name, b"old")
            proxy.set_delay(0.05)  # each piece of 64 KiB: the whole would take many seconds
            cut = threading.Timer(1.0, proxy.set_mode, [Mode.REFUSE])
            cut.start()

            with pytest.raises(StorageUnavailable):
                act()
            cut.join()

    direct = open_store(s3_bucket, s3_server.write_credentials(tmp_path / "direct"))
    assert {name: direct.read(s3_bucket + name) for name in acts} == dict.fromkeys(acts, b"old")


@pytest.mark.s3
def test_a_server_that_is_killed_and_started_again_costs_nothing(tmp_path: Path):
    """Writes and reads wait for it; what had been written is there, and whole."""
    with restartable_s3() as server:
        root = server.server.create_bucket("lake")
        store = open_store(root, server.server.write_credentials(tmp_path / "keys"), patience_seconds=120.0)
        store.write(root + "before.bin", PAYLOAD)
        server.kill()
        with ThreadPoolExecutor(1) as other:  # the server is started here: it dies with the thread that started it
            written = other.submit(store.write, root + "during.bin", PAYLOAD)
            server.start()
            written.result(120)

        assert store.read(root + "before.bin") == store.read(root + "during.bin") == PAYLOAD


@pytest.mark.s3
def test_an_output_that_is_only_away_is_not_called_unwritable(
    behind: ObjectStore, proxy: FaultyProxy, s3_server: S3Server, s3_bucket: str, tmp_path: Path
):
    """Nothing is known of it; a job must not end for that."""
    credentials = tmp_path / "proxied"
    proxy.set_mode(Mode.REFUSE)
    with pytest.raises(StorageUnavailable) as caught:
        check_writable(s3_bucket + "models", credentials)
    assert caught.value.reason == "StorageUnavailable"

    back = threading.Timer(1.0, proxy.set_mode, [Mode.OPEN])
    back.start()
    check_writable(s3_bucket + "models", credentials, patience_seconds=60.0)
    back.join()
