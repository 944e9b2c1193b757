"""The study server as a process of its own, which tests may kill and start again on the same port."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

_READY_SECONDS = 60.0


@dataclass
class StudyServerProcess:
    """One server on 127.0.0.1; `port` stays over restarts."""

    database_url: str
    options: tuple[str, ...] = ()
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    log: Path | None = None
    """Where its log goes; None: to the test's own stderr."""

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the process and wait for the line that says it listens."""
        command = [sys.executable, "-m", "kubeautoml.study.server", "--database-url", self.database_url]
        listen = ["--listen", f"127.0.0.1:{self.port}", *self.options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") if self.log else nullcontext() as log:
            self.process = subprocess.Popen([*command, *listen], stdout=subprocess.PIPE, stderr=log, env=environment)
        self.port = int(self._first_line().split()[4].rstrip(",").rpartition(":")[2])

    def _first_line(self) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            if select.select([self.process.stdout], [], [], 0.2)[0]:
                if line := self.process.stdout.readline().decode():
                    return line
                raise RuntimeError(f"the study server ended with code {self.process.wait()}; its log is above")
        raise RuntimeError(f"the study server did not listen within {_READY_SECONDS:.0f} s")

    def kill(self) -> None:
        """SIGKILL, as a node that goes away."""
        self._end(self.process.kill if self.process else None)

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        return self._end(self.process.terminate if self.process else None)

    def _end(self, end: object) -> int:
        if self.process is None or not callable(end):
            return 0
        end()
        code = self.process.wait(timeout=30)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None
        return code


@contextmanager
def running_study_server(database_url: str, *options: str) -> Iterator[StudyServerProcess]:
    """A server in front of a database, killed at the end if the test has not stopped it."""
    server = StudyServerProcess(database_url, options)
    server.start()
    try:
        yield server
    finally:
        server.kill()
