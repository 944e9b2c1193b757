"""What a client has written about its own running trials and not sent yet.

A trial's parameters and attributes come one by one within milliseconds. They are collected and sent in one call: with the end of
the trial, before anything is read, or after `DELAY_SECONDS`, so that other workers see them soon. A refusal of what was
sent late is raised by the next call that concerns the trial. A batch that did not arrive is kept and sent again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError

from kubeautoml.api.errors import StudyError

log = logging.getLogger(__name__)

DELAY_SECONDS = 0.05
"""How long a write may wait for others; nothing beside a trial's seconds. A guess."""

_REST_SECONDS = 1.0
"""Between two attempts of the thread that sends in the background."""

REFUSALS = (UpdateFinishedTrialError, KeyError, ValueError)
"""What a server says to a write that it will never take."""

Message = Any


class _Draft:
    def __init__(self) -> None:
        self.sending = threading.Lock()
        self.unsent: Message | None = None
        self.refusal: Exception | None = None


class Drafts:
    """Unsent writes by trial. Threads may share it.

    Args:
        new: makes an empty message for a trial.
        send: sends a message; raises what the server says.
    """

    def __init__(self, new: Callable[[int], Message], send: Callable[[Message], None]) -> None:
        self._new, self._send = new, send
        self._drafts: dict[int, _Draft] = {}
        self._lock = threading.Lock()
        self._written = threading.Event()
        self._sender: threading.Thread | None = None

    def add(self, trial_id: int, fill: Callable[[Message], None]) -> None:
        """Note a write, to be sent soon.

        Raises:
            Exception: the refusal of an earlier one.
        """
        with self._lock:
            draft = self._drafts.setdefault(trial_id, _Draft())
            self._raise_refusal(draft)
            if draft.unsent is None:
                draft.unsent = self._new(trial_id)
            fill(draft.unsent)
            if self._sender is None or not self._sender.is_alive():
                self._sender = threading.Thread(target=self._send_late, name="study-writes", daemon=True)
                self._sender.start()
        self._written.set()

    def flush(self, trial_id: int, finish: Callable[[Message], None] | None = None) -> None:
        """Send what is unsent of a trial, with more at the end when given; then nothing of it is kept.

        Raises:
            Exception: what the server says, now or to an earlier write.
        """
        draft = self._drafts.get(trial_id)
        if draft is None and finish is None:
            return
        if draft is None:
            with self._lock:
                draft = self._drafts.setdefault(trial_id, _Draft())
        with draft.sending:
            with self._lock:
                try:
                    self._raise_refusal(draft)
                except Exception:
                    if draft.unsent is None:
                        self._drafts.pop(trial_id, None)
                    raise
            self._send_draft(trial_id, draft, finish)

    def flush_all(self) -> None:
        """Send all that is unsent. A refusal of one trial's writes is kept for the call that concerns it."""
        for trial_id in list(self._drafts):
            self._flush_quietly(trial_id)

    def _flush_quietly(self, trial_id: int) -> None:
        draft = self._drafts.get(trial_id)
        if draft is None:
            return
        with draft.sending:
            try:
                if draft.refusal is None:
                    self._send_draft(trial_id, draft, None)
            except REFUSALS as error:
                with self._lock:
                    draft.refusal = error
                    self._drafts[trial_id] = draft

    def _send_draft(self, trial_id: int, draft: _Draft, finish: Callable[[Message], None] | None) -> None:
        with self._lock:
            message, draft.unsent = draft.unsent, None
        if message is None and finish is None:
            return
        whole = self._new(trial_id)
        if message is not None:
            whole.CopyFrom(message)
        if finish is not None:
            finish(whole)
        try:
            self._send(whole)
        except REFUSALS:
            raise
        except BaseException:  # it may not have arrived, or a signal came
            self._take_back(draft, message)
            raise
        finally:
            with self._lock:
                if draft.unsent is None:
                    self._drafts.pop(trial_id, None)

    def _take_back(self, draft: _Draft, message: Message | None) -> None:
        with self._lock:
            if message is not None:
                if draft.unsent is not None:
                    message.MergeFrom(draft.unsent)  # of two values of one name the later counts
                draft.unsent = message

    @staticmethod
    def _raise_refusal(draft: _Draft) -> None:
        refusal, draft.refusal = draft.refusal, None
        if refusal is not None:
            raise refusal

    def _send_late(self) -> None:
        while True:
            self._written.wait()
            self._written.clear()
            time.sleep(DELAY_SECONDS)
            try:
                self.flush_all()
            except StudyError as error:
                log.warning("writes to the study are late", extra={"error": str(error)})
                self._written.set()
                time.sleep(_REST_SECONDS)
