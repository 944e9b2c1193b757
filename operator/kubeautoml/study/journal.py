"""journal:///path: the study as one append-only file on a laptop: Optuna's journal, whose lock dies with its owner."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from kubeautoml.api.errors import StudyError


def open_journal(path: Path) -> JournalStorage:
    """The study's file, created with its folder when absent."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return JournalStorage(JournalFile(path))
    except OSError as error:
        raise StudyError(
            f"journal {path} cannot be opened: {error.strerror or error}; give a path that this user may write"
        ) from error
    except ValueError as error:
        raise StudyError(f"journal {path} is damaged: {error}; move the file away to start anew") from error


class JournalFile(BaseJournalBackend):  # type: ignore[misc]  # optuna is read without types
    """Optuna's file backend, made to survive a killed worker.

    Optuna locks with a symbolic link that a killed process leaves behind, so that everybody waits half a minute; here
    the kernel drops the lock with the process. A process killed while writing leaves half a line; the next one cuts it
    off, where Optuna would append to it and never be able to read the file again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = JournalFileBackend(str(path))

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        yield from self._reader.read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with self._locked(), self._path.open("r+b") as file:
            file.seek(_end_of_last_line(file.fileno()))
            file.truncate()
            file.write(_lines(logs))
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with Path(f"{self._path}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _lines(logs: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()


def _end_of_last_line(descriptor: int) -> int:
    """Offset after the last newline; the file's end unless a writer was killed half-way."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - 65536)
        block = os.pread(descriptor, end - start, start)
        if (newline := block.rfind(b"\n")) >= 0:
            return start + newline + 1
        end = start
    return 0
