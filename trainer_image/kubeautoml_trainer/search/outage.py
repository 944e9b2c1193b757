"""What becomes of a worker whose study, storage or disk is away or full."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kubeautoml.api.errors import AccessDenied, StorageError, StorageUnavailable, StudyError
from kubeautoml.study import is_fenced
from kubeautoml_trainer.search.signals import Terminated

log = logging.getLogger("kubeautoml.worker")

T = TypeVar("T")

OUTAGE_SECONDS = 120.0
"""A finished trial waits this long for a study or a store that does not answer before the worker gives up."""


def is_full_disk(error: BaseException | None) -> bool:
    """Whether this pod's own disk is full, which is not the trial's fault and would fail the next one, too."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False


def full_disk(scratch: Path) -> StorageError:
    return StorageError(
        f"the pod's disk is full ({scratch}, or /tmp); the running trial is handed back: give the nodes more ephemeral storage, "
        "or the job fewer rows"
    )


_HOPELESS = (ValueError, TypeError, KeyError, AttributeError, AssertionError, AccessDenied)
"""Mistakes and refusals: the same call would end the same way again."""


def persistently(
    act: Callable[[], T],
    seconds: float = OUTAGE_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
    abandon: Callable[[], bool] = lambda: False,
) -> T:
    """Do something with study or store, again and again while it does not answer: an outage must cost no finished trial.

    Raises:
        StudyError, StorageUnavailable: the study or the storage did not answer for so many seconds.
        Terminated: `abandon` said so.
        Exception: what will not change by waiting, such as that the trial was retired.
    """
    deadline, wait = time.monotonic() + seconds, 0.2
    while True:
        try:
            return act()
        except Exception as error:
            if is_fenced(error) or isinstance(error, _HOPELESS):
                raise
            words = f"{type(error).__name__}: {error}"[:200]
            if abandon():
                raise Terminated from error
            if time.monotonic() + wait > deadline:
                if isinstance(error, StorageError):
                    raise StorageUnavailable(f"nothing could be stored for {seconds:.0f} s: {error}") from error
                raise StudyError(f"the study did not answer for {seconds:.0f} s: {words}") from error
            log.warning("no answer; trying again", extra={"error": words})
            sleep(wait)
            wait = min(5.0, wait * 2)
