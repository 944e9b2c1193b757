"""PostgreSQL and S3 servers that a test may kill and start again: same port, same files, nothing lost but connections.

They are started by any thread, so they are not tied to its life (a parent-death signal comes when the *thread* ends).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from real.postgres import (
    _PASSWORD,
    PostgresServer,
    _free_port,
    _initialise,
    _settings,
    _unprivileged_owner,
    _wait_until_ready,
    postgres_binaries,
)
from real.s3 import S3Server, _arguments, _weed
from real.s3 import _wait_until_ready as _wait_for_s3

_STARTS = 20
"""A postmaster that follows a killed one must wait until the last backend of that has gone."""


class RestartablePostgres:
    """A server in a temporary folder. A commit survives the server's death: files stay with the operating system."""

    def __init__(self, folder: Path) -> None:
        self.server = PostgresServer("127.0.0.1", _free_port(), "studies", _PASSWORD)
        self._binaries, self._folder = postgres_binaries(), folder
        self._owner = _unprivileged_owner(folder)
        self._process: subprocess.Popen[bytes] | None = None
        _initialise(self._binaries, folder, self.server, self._owner)

    @property
    def log(self) -> Path:
        return self._folder / "log"

    def start(self) -> None:
        """Start it and wait until it takes connections.

        Raises:
            RuntimeError: it does not; with the end of its log.
        """
        # a later -c wins; fsync stays off, since it guards against the machine's death, not the server's
        settings = [*_settings(self._folder, self.server, False), "-c", "synchronous_commit=on"]
        for left in reversed(range(_STARTS)):
            with self.log.open("a") as log:
                self._process = subprocess.Popen(
                    [str(self._binaries / "postgres"), "-D", str(self._folder / "data"), *settings],
                    stdout=log,
                    stderr=log,
                    user=self._owner,
                    start_new_session=True,
                )
            try:
                _wait_until_ready(self.server, self._process, self.log)
                return
            except RuntimeError:
                if left == 0 or self._process.poll() is None:
                    raise
                time.sleep(0.25)

    def stop_at_once(self) -> None:
        """PostgreSQL's immediate shutdown: every backend leaves where it is, and the next start recovers."""
        self._end(signal.SIGQUIT)

    def kill(self) -> None:
        """SIGKILL of the postmaster; its backends leave when they notice."""
        self._end(signal.SIGKILL)

    def kill_backend(self, pick: float) -> bool:
        """SIGKILL one backend; the postmaster then ends all others and recovers. False when there is none.

        Args:
            pick: which one, from 0 to 1.
        """
        try:
            with psycopg.connect(self.server.url("postgres"), connect_timeout=5) as connection:
                query = (
                    "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                )
                found = [row[0] for row in connection.execute(query + " ORDER BY pid").fetchall()]
        except psycopg.Error:
            return False
        if not found:
            return False
        with suppress(ProcessLookupError):
            os.kill(found[int(pick * len(found))], signal.SIGKILL)
        return True

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=30)
            self._process = None


@contextmanager
def restartable_postgres() -> Iterator[RestartablePostgres]:
    """A running one, ended and removed whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix="kubeautoml-pg-"))
    server = None
    try:
        server = RestartablePostgres(folder)
        server.start()
        yield server
    finally:
        if server is not None:
            server.stop_at_once()
        shutil.rmtree(folder, ignore_errors=True)


class RestartableS3:
    """SeaweedFS in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.server: S3Server
        self.server, arguments = _arguments(folder)
        self._command = [_weed(), *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self._folder / "log"

    def start(self) -> None:
        """Start it and wait until it takes objects."""
        environment = {**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
        with self.log.open("a") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self._folder, env=environment)
        _wait_for_s3(self.server, self._process, self.log)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=30)
            self._process = None


@contextmanager
def restartable_s3() -> Iterator[RestartableS3]:
    """A running one, ended and removed whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix="kubeautoml-s3-"))
    server = RestartableS3(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
