"""`kubeautoml serve` as a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from real.process import end, start

READY_SECONDS = 60.0
"""Generous: the machine may be busy with other tests."""


@dataclass(frozen=True)
class Running:
    """A server that listens."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])


@contextmanager
def running(model: str, folder: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Start on a free port of 127.0.0.1 and wait until it says where it serves; killed at the end if it still runs."""
    log = folder / "server.log"
    settings = [f"{k}={v}" for k, v in (env or {}).items()]
    command = [
        sys.executable,
        "-m",
        "kubeautoml.cli.main",
        "serve",
        "--model",
        model,
        "--host",
        "127.0.0.1",
        "--port",
        "0",
    ]
    process = start(["env", *settings, *command, *arguments], log)
    try:
        yield Running(process, _address(process, log), log)
    finally:
        end(process)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        said = re.search(r"^serving .* on (http://[\d.]+:\d+)$", log.read_text(), re.MULTILINE)
        if said:
            return said.group(1)
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError(f"the server must start within {READY_SECONDS:g} s, got: {log.read_text()}")


def plain_environment() -> dict[str, str]:
    """The environment of this process with nothing of KubeAutoML or S3 in it."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("KUBEAUTOML_", "AWS_"))}
