"""How many cores this process may use, and a prediction."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""Of a container (control groups, version 2): microseconds in a period and its length, or "max"."""

BATCH_ROWS = 1_000
"""Rows from which on more than one thread pays, where nobody said how many; a guess, far above what starting them costs."""


_IN_A_SHARE: ContextVar[bool] = ContextVar("in_a_share", default=False)


def threads_for(rows: int, wanted: int | None = None) -> int:
    """Threads to predict so many rows with: those that somebody wanted, or 1 for a few rows and all cores for many; always 1 for those
    that one thread has got as its share.
    """
    if _IN_A_SHARE.get():
        return 1
    return wanted or (usable_cores() if rows >= BATCH_ROWS else 1)


@contextmanager
def in_a_share() -> Iterator[None]:
    """Inside, this thread is one of several that predict a share of the rows each."""
    token = _IN_A_SHARE.set(True)
    try:
        yield
    finally:
        _IN_A_SHARE.reset(token)


class _Blas:
    """Who wants products of matrices on one thread now, in all threads of this process, and how many there were before."""

    def __init__(self) -> None:
        self._lock, self._asking = Lock(), 0
        self._before: Any = None

    def enter(self) -> None:
        with self._lock:
            self._asking += 1
            if self._asking == 1:
                self._before = _libraries().limit(limits=1, user_api="blas")

    def leave(self) -> None:
        with self._lock:
            self._asking -= 1
            if not self._asking:
                self._before.restore_original_limits()


@cache
def _libraries() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


_BLAS = _Blas()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Inside, a product of matrices takes one thread: where blocks of rows have a thread each, products on all cores would only wait for
    one another. Counted, since the limit is the whole process's: it ends with the last one that asked.
    """
    _BLAS.enter()
    try:
        yield
    finally:
        _BLAS.leave()


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
