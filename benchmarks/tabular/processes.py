"""Runs a rival's script as a process group of its own: its wall time, the memory of all its processes, its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
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
    """Runs `command` with its output in `folder`/log.txt; whatever is left of its group after it is ended too.

    Without `environment` it has this process's own.
    """
    began = time.monotonic()
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    peak, largest, is_late = 0, 0, False
    while process.poll() is None and not is_late:
        held = memory(process.pid)
        peak, largest = max(peak, sum(held)), max([largest, *held])
        time.sleep(EVERY_SECONDS)
        is_late = time.monotonic() - began > seconds
    wall = time.monotonic() - began
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return Ran(process.wait(), wall, peak, largest, is_late)


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
