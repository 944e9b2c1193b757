"""Processes that fit models beside one another, where the finalizer has cores for more than one: on few rows two fits of one thread each
are done long before one after the other on two threads.

Processes, not threads: libraries keep what they draw by once for a process, and much of a small fit is Python.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import active_children, connection, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import numpy as np

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.logs import log_context, log_to_stderr
from kubeautoml.api.trials import MOST_ROWS_REFOLDED
from kubeautoml_trainer.models.cores import one_blas_thread, usable_cores
from kubeautoml_trainer.models.memory import free_memory_bytes
from kubeautoml_trainer.variants.base import Act, Ground

log = logging.getLogger("kubeautoml.finalize")
T = TypeVar("T")
R = TypeVar("R")

MOST_HANDS = 7
"""Beside this process; more would hardly find work: an ensemble has a dozen models that take long. A guess."""
_HAND_BYTES, _COPIES, _SHARE = 600 * 2**20, 4, 0.5
"""What one takes with all libraries loaded, how often it holds the data, and the share of free memory that all together may take; the
first is measured: 560 MiB, of which 200 are libraries that all share."""
_LATE_SECONDS = 5.0
"""How much later than it should a fit may end before its process is killed."""
_WARM_ROWS, _WARM_SECONDS = 100, 10.0
"""Of the fit by which one gets ready for a family: what it may learn from, and take; guesses."""
_ACCELERATORS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))
"""Where a driver shows that there is one: NVIDIA's and AMD's."""


def hands_for(ground: Ground, families: Sequence[str] = ()) -> Hands | None:
    """As many as there are cores and memory for; None where one process does better: on many rows, whose fits use all threads, on an
    accelerator, which fits share badly, and on texts and images, of which this process knows already what is costly to work out.

    Args:
        families: those that they should be ready to fit.
    """
    schema, rows = ground.data.schema, ground.data.train
    count = min(MOST_HANDS, ground.threads - 1, usable_cores() - 1)
    is_costly = any(c.type in (ColumnType.TEXT, ColumnType.IMAGE) for c in schema.features)
    if count < 1 or len(rows) > MOST_ROWS_REFOLDED or is_costly or any(d.exists() for d in _ACCELERATORS):
        return None
    data_bytes = int(rows.frame.memory_usage(deep=True).sum())
    count = min(count, int(_SHARE * free_memory_bytes() / (_HAND_BYTES + _COPIES * data_bytes)))
    if count < 1:
        return None
    try:
        return Hands(ground, count, families)
    except OSError as error:  # no semaphores: /dev/shm is not there
        log.warning("all fits are made in this process", extra={"error": str(error)})
        return None


class Hands:
    """So many processes beside this one, each of which knows the ground. They start at once, in the background, and must be closed."""

    def __init__(self, ground: Ground, count: int, families: Sequence[str] = ()) -> None:
        self.count = count
        self.are_there = True
        """Until one of them dies or does not answer."""
        self._ground = replace(ground, threads=1)
        self._others = set(active_children())
        self._pool = ProcessPoolExecutor(
            count, get_context("spawn"), initializer=_begin, initargs=(self._ground, families)
        )
        # a process takes the data while it starts, which takes seconds
        self._start = Thread(target=self._submit, args=(int,), name="hands", daemon=True)
        self._start.start()

    def start(self, act: Act[T, R], tasks: Sequence[T], until: float) -> Callable[[], list[R | None]]:
        """See `Bench.start`. This process, once it asks for what comes of the tasks, does its part of those that nobody has begun."""
        given = [self._submit(_do, act, task) for task in tasks]
        return lambda: self._finished(act, tasks, given, until)

    def _finished(
        self, act: Act[T, R], tasks: Sequence[T], given: Sequence[Future[R | None] | None], until: float
    ) -> list[R | None]:
        found: dict[int, R | None] = {}
        for place, (task, future) in enumerate(zip(tasks, given, strict=True)):
            if future is None or future.cancel():
                with one_blas_thread():
                    found[place] = act(self._ground, task)
        for place, future in enumerate(given):
            if future is not None and place not in found:
                found[place] = self._of(future, until)
        return [found[place] for place in range(len(tasks))]

    def _submit(self, do: Callable[..., R], *arguments: Any) -> Future[R] | None:
        """None once one of the processes has died."""
        try:
            return self._pool.submit(do, *arguments) if self.are_there else None
        except RuntimeError as error:
            self._lose(error)
            return None

    def _of(self, future: Future[R | None], until: float) -> R | None:
        left = None if math.isinf(until) else max(0.0, until - time.monotonic()) + _LATE_SECONDS
        try:
            return future.result(left if self.are_there else 0.0)
        except (TimeoutError, BrokenExecutor, CancelledError) as error:
            self._lose(error)
            return None

    def _lose(self, error: BaseException) -> None:
        if self.are_there:
            self.are_there = False
            log.warning("a process that fits models is lost", extra={"error": repr(error)[:300]})
            self._end()

    def close(self) -> None:
        """End them, whatever they do."""
        self.are_there = False
        self._start.join()
        self._end()

    def _end(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in active_children():
            if process not in self._others:
                process.kill()


# Within such a process


@dataclass
class _Here:
    ground: Ground | None = None


_HERE = _Here()


def _begin(ground: Ground, families: Sequence[str]) -> None:
    from threadpoolctl import threadpool_limits

    from kubeautoml_trainer.features.again import keep_for_rows_that_come_again
    from kubeautoml_trainer.worker import limit_threads

    Thread(target=_leave_with_the_parent, name="parent", daemon=True).start()
    log_to_stderr()
    limit_threads(ground.threads)  # for libraries that are still to come
    threadpool_limits(ground.threads)
    keep_for_rows_that_come_again()
    _HERE.ground = ground
    for name in families:
        _warm_up(ground, name)


def _warm_up(ground: Ground, name: str) -> None:
    """The first fit of a family loads what it needs: torch takes 2 to 8 s for that."""
    from kubeautoml_trainer.models import family_named
    from kubeautoml_trainer.models.base import FitContext

    rounds = getattr(family_named(name), "rounds_parameter", None)
    if rounds is None:
        return
    rows = ground.data.train.take(np.arange(min(_WARM_ROWS, len(ground.data.train))))
    context = FitContext(ground.task, ground.job.metric, 0, ground.threads, time.monotonic() + _WARM_SECONDS)
    with contextlib.suppress(Exception):  # what is wrong with so few rows is not what a fit will find
        family_named(name).fit(rows, None, ground.data.schema, {rounds: 1}, context)


def _leave_with_the_parent() -> None:
    """A finalizer that is killed closes nothing."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _do(act: Act[Any, Any], task: Any) -> Any:
    ground = _HERE.ground
    assert ground is not None
    with log_context(job=f"{ground.job.namespace}/{ground.job.name}"):
        return act(ground, task)
