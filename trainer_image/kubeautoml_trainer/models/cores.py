"""How many cores this process may use, and a prediction."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""Of a container (control groups, version 2): microseconds in a period and its length, or "max"."""

BATCH_ROWS = 1_000
"""Rows from which on more than one thread pays, where nobody said how many; a guess, far above what starting them costs."""


def threads_for(rows: int, wanted: int | None = None) -> int:
    """Threads to predict so many rows with: those that somebody wanted, or 1 for a few rows and all cores for many."""
    return wanted or (usable_cores() if rows >= BATCH_ROWS else 1)


@cache
def usable_cores() -> int:
    """The fewest of: cores of the machine that the process may run on, the container's limit, OMP_NUM_THREADS; at least 1."""
    return cores_within(len(os.sched_getaffinity(0)), CPU_LIMIT, os.environ)


def cores_within(machine: int, limit: Path, environment: Mapping[str, str]) -> int:
    """The same of a given machine; what cannot be read limits nothing."""
    found = [machine]
    try:
        quota, period = limit.read_text().split()[:2]
        found.append(math.ceil(int(quota) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        pass  # no container, or one without a limit
    wanted = environment.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal():
        found.append(int(wanted))
    return max(1, min(found))
