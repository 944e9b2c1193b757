"""What a worker is doing before its trials, told to whoever waits for it: the study carries a sentence to the job's status."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import optuna

log = logging.getLogger("kubeautoml.worker")

EVERY_SECONDS = 5.0
"""Between two sentences, at least: as often as the operator looks. The first comes at once."""
MAX_CHARACTERS = 200


class Activity:
    """Says what is being done, seldom enough to cost nothing; a study that is away is no reason to stop.

    Args:
        write: carries a sentence to the study.
    """

    def __init__(self, write: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._next = -float("inf")
        self._began: dict[str, float] = {}

    def tell(self, words: str, *, now: bool = False) -> None:
        """A sentence; `now`, however short ago the last one was."""
        if not now and self._clock() < self._next:
            return
        self._next = self._clock() + EVERY_SECONDS
        try:
            self._write(words[:MAX_CHARACTERS])
        except Exception as error:  # noqa: BLE001  # what it is about goes on
            log.info("what the worker does could not be told", extra={"error": str(error)[:200]})

    def counted(self, what: str) -> Callable[[int, int], None]:
        """A function that tells how far something is: (done, of how many), with what is done in a second."""

        def tell(done: int, of: int) -> None:
            began = self._began.setdefault(what, self._clock())
            seconds = self._clock() - began
            pace = f", {done / seconds:,.0f} a second" if seconds >= 1.0 else ""
            self.tell(f"{what}: {done:,} of {of:,}{pace}")

        return tell


def study_activity(study: optuna.Study) -> Activity:
    """What a worker's sentences are written to: its study."""
    from kubeautoml.api.trials import StudyAttr
    from kubeautoml.study import set_study_attr

    return Activity(lambda words: set_study_attr(study, StudyAttr.ACTIVITY, words))


SILENT = Activity(lambda words: None)
"""Tells nobody."""
