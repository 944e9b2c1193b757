"""Runs a rival's script as a process group of its own: its wall time, the memory of all its processes, its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

EVERY_SECONDS = 0.25


@dataclass(frozen=True)
class Ran:
    """A process that has ended: its exit status, -9 when it was killed for its time."""

    status: int
    wall_seconds: float
    peak_bytes: int
    """Of all its processes together."""
    peak_of_one_bytes: int
    """Of the largest process."""
    was_killed: bool


def run_bounded(command: list[str], folder: Path, seconds: float, environment: dict[str, str] | None) -> Ran:
    """Runs `command` with its output in `folder`/log.txt; whatever is left of its group after it is ended too. So it is when SIGTERM
    comes, where that raises (`end_on_sigterm`).

    Without `environment` it has this process's own.
    """
    began = time.monotonic()
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    peak, largest, is_late = 0, 0, False
    try:
        while process.poll() is None and not is_late:
            held = memory(process.pid)
            peak, largest = max(peak, sum(held)), max([largest, *held])
            time.sleep(EVERY_SECONDS)
            is_late = time.monotonic() - began > seconds
        wall = time.monotonic() - began
    finally:  # also when this process is asked to end
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
    return Ran(status, wall, peak, largest, is_late)


def end_on_sigterm() -> None:
    """From now on SIGTERM unwinds this process as Ctrl-C does, so that it ends what it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def memory(pid: int) -> list[int]:
    """Bytes that the process and each of its children hold; pages that several share are divided among them (PSS)."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    held = []
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
            held.append(process.memory_full_info().pss)
    return held
