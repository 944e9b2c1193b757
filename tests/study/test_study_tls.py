"""Certificates that are replaced while server and clients run, and a readiness that no hanging database holds up."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeautoml.api.errors import StudyError
from kubeautoml.study import create_study
from kubeautoml.study.certificate import Certificate
from kubeautoml.study.database import open_backend
from kubeautoml.study.remote import RemoteStorage, open_remote
from kubeautoml.study.server import StudyServer
from real.postgres import PostgresServer
from real.proxy import Mode, faulty_proxy


def write_certificate(folder: Path) -> None:
    """A new self-signed one for 127.0.0.1, in place of that which is there, one file after the other."""
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-nodes"]
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    out = ["-keyout", str(folder / "new.key"), "-out", str(folder / "new.crt")]
    subprocess.run(["openssl", "req", "-x509", *new_key, *out, *subject], check=True, capture_output=True)
    (folder / "new.crt").replace(folder / "tls.crt")
    (folder / "new.key").replace(folder / "tls.key")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StudyServer]:
    write_certificate(tmp_path)
    certificate = Certificate(tmp_path / "tls.crt", tmp_path / "tls.key")
    server = StudyServer(open_backend(f"sqlite:///{tmp_path}/study.db"), "127.0.0.1:0", certificate)
    server.start()
    yield server
    server.stop()


def client(server: StudyServer, authority: Path, patience_seconds: float = 0.3) -> RemoteStorage:
    return open_remote(f"127.0.0.1:{server.port}", True, None, authority, patience_seconds)


def test_a_renewed_certificate_is_shown_to_new_clients(server: StudyServer, tmp_path: Path, name: str):
    """Without a restart; whoever is connected goes on, whoever trusts only the old one is outside."""
    old_authority = tmp_path / "old.crt"
    old_authority.write_bytes((tmp_path / "tls.crt").read_bytes())
    connected = create_study(client(server, old_authority), name, "maximize")

    write_certificate(tmp_path)
    fresh = create_study(client(server, tmp_path / "tls.crt"), name, "maximize")

    assert fresh.ask().number == 0
    assert connected.ask().number == 1
    with pytest.raises(StudyError, match="did not answer"):
        create_study(client(server, old_authority), name, "maximize")


def test_half_a_renewal_is_not_taken(server: StudyServer, tmp_path: Path, name: str):
    """A certificate whose key has not come yet does not close the server: the old pair stays until both fit."""
    authority = tmp_path / "old.crt"
    authority.write_bytes((tmp_path / "tls.crt").read_bytes())
    key = (tmp_path / "tls.key").read_bytes()
    write_certificate(tmp_path)
    new_key = (tmp_path / "tls.key").read_bytes()

    (tmp_path / "tls.key").write_bytes(key)
    during = create_study(client(server, authority), name, "maximize")
    (tmp_path / "tls.key").write_bytes(new_key)
    after = create_study(client(server, tmp_path / "tls.crt"), name, "maximize")

    assert (during.ask().number, after.ask().number) == (0, 1)


def test_a_client_reads_its_authority_again(server: StudyServer, tmp_path: Path, name: str):
    """A worker that holds the old authority waits, and goes on when the new one is mounted."""
    authority = tmp_path / "ca.crt"
    authority.write_bytes((tmp_path / "tls.crt").read_bytes())
    write_certificate(tmp_path)
    storage = client(server, authority, patience_seconds=30)
    with pytest.raises(StudyError, match="did not answer"):
        create_study(client(server, authority), name, "maximize")

    authority.write_bytes((tmp_path / "tls.crt").read_bytes())

    assert create_study(storage, name, "maximize").ask().number == 0


@pytest.mark.parametrize("damage", ["key", "crt"])
def test_a_pair_that_does_not_fit_is_named(tmp_path: Path, damage: str):
    """At the start there is no old one to go on with."""
    write_certificate(tmp_path)
    (tmp_path / f"tls.{damage}").write_text("no PEM")

    with pytest.raises(StudyError, match=r"--tls-cert .*tls.crt and --tls-key .*tls.key must be a PEM certificate"):
        Certificate(tmp_path / "tls.crt", tmp_path / "tls.key")


@pytest.mark.postgres
def test_readiness_is_known_within_a_second_while_the_database_hangs(postgres_server: PostgresServer, name: str):
    """A database that takes connections and never answers holds up neither the probe nor those after it."""
    url = postgres_server.create_database()
    with faulty_proxy(postgres_server.port) as proxy:
        server = StudyServer(open_backend(url.replace(f":{postgres_server.port}/", f":{proxy.port}/")), "127.0.0.1:0")
        before = server.is_ready()
        proxy.set_mode(Mode.DEAF)
        proxy.cut()
        answers, longest = [], 0.0
        for _ in range(3):
            started = time.monotonic()
            answers.append(server.is_ready())
            longest = max(longest, time.monotonic() - started)
        proxy.set_mode(Mode.OPEN)
        proxy.cut()
        deadline = time.monotonic() + 60
        while not server.is_ready():
            assert time.monotonic() < deadline, "the server did not become ready again"
            time.sleep(0.1)

    assert (before, answers) == (True, [False, False, False])
    assert longest < 5  # a second, and room for a busy machine; the database hangs for ever


def test_a_server_that_is_told_to_leave_is_not_ready(server: StudyServer):
    """So that no new client is sent to it."""
    before = server.is_ready()
    server.stop()

    assert (before, server.is_ready()) == (True, False)
