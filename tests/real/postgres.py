"""A real PostgreSQL server for tests: the Debian binaries, in a temporary folder, on a free port, without fsync."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

_READY_SECONDS = 60.0
_PASSWORD = "studies-secret"


@dataclass(frozen=True)
class PostgresServer:
    """Where the server is. The password is real, so that a wrong one is refused."""

    host: str
    port: int
    user: str
    password: str

    def url(self, database: str) -> str:
        return f"postgresql://{self.user}:{self.password}@{self.host}:{self.port}/{database}"

    def create_database(self) -> str:
        """Make a database of its own for one test; its URL."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self.url(name)


@contextmanager
def running_postgres(durable: bool = False) -> Iterator[PostgresServer]:
    """Start the server as a user other than root, wait until it takes connections, stop it by its process id.

    Args:
        durable: keep fsync and synchronous commits, for benchmarks; tests do without.
    """
    binaries = postgres_binaries()
    folder = Path(tempfile.mkdtemp(prefix="kubeautoml-pg-"))
    owner = _unprivileged_owner(folder)
    server = PostgresServer("127.0.0.1", _free_port(), "studies", _PASSWORD)
    try:
        _initialise(binaries, folder, server, owner)
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [str(binaries / "postgres"), "-D", str(folder / "data"), *_settings(folder, server, durable)],
                stdout=log,
                stderr=log,
                user=owner,
                start_new_session=True,
            )
        try:
            _wait_until_ready(server, process, folder / "log")
            yield server
        finally:
            process.send_signal(signal.SIGQUIT)  # immediate shutdown: nothing here is kept
            process.wait(timeout=30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def postgres_binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1].parent
    if on_path := shutil.which("postgres"):
        return Path(on_path).parent
    raise RuntimeError("tests marked postgres need PostgreSQL; install it with: apt-get install postgresql")


def _unprivileged_owner(folder: Path) -> str | None:
    """PostgreSQL refuses to run as root; for root, hand the folder to its own user, or to nobody."""
    if os.geteuid() != 0:
        return None
    users = {entry.pw_name for entry in pwd.getpwall()}
    owner = "postgres" if "postgres" in users else "nobody"
    shutil.chown(folder, owner)
    return owner


def _initialise(binaries: Path, folder: Path, server: PostgresServer, owner: str | None) -> None:
    password_file = folder / "password"
    password_file.write_text(server.password)
    if owner:
        shutil.chown(password_file, owner)
    command = [str(binaries / "initdb"), "-D", str(folder / "data"), "-U", server.user, f"--pwfile={password_file}"]
    options = ["--auth=scram-sha-256", "--no-sync", "-E", "UTF8", "--locale=C"]
    subprocess.run([*command, *options], check=True, capture_output=True, user=owner, cwd=folder)


def _settings(folder: Path, server: PostgresServer, durable: bool) -> list[str]:
    settings = {
        "listen_addresses": server.host,
        "port": str(server.port),
        "unix_socket_directories": str(folder),
        "fsync": "on" if durable else "off",
        "synchronous_commit": "on" if durable else "off",
        "full_page_writes": "on" if durable else "off",
        "max_connections": "100",
        "shared_buffers": "32MB",
    }
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait_until_ready(server: PostgresServer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"PostgreSQL ended with code {process.returncode}: {log.read_text()[-2000:]}")
        try:
            psycopg.connect(server.url("postgres"), connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.05)
    raise RuntimeError(f"PostgreSQL took no connection within {_READY_SECONDS:.0f} s: {log.read_text()[-2000:]}")
