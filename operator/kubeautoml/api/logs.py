"""Structured logs: one JSON object a line on stderr, the same from the operator, the study server and every pod."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal, TextIO

LogFormat = Literal["json", "text"]

_KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_CONTEXT: ContextVar[tuple[tuple[str, str | int], ...]] = ContextVar("log_context", default=())


@contextmanager
def log_context(**fields: str | int) -> Iterator[None]:
    """Every line that is logged within, in this task or thread and what it starts, carries these fields."""
    token = _CONTEXT.set((*_CONTEXT.get(), *fields.items()))
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def log_to_stderr(level: str = "info", form: LogFormat = "json", stream: TextIO | None = None) -> None:
    """Send this process's logs to stderr."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for talkative in ("botocore", "urllib3", "interpret", "matplotlib"):
        logging.getLogger(talkative).setLevel(max(logging.WARNING, logging.getLogger().level))


class JsonFormatter(logging.Formatter):
    """Time, level, logger, message, then the fields of the context and those given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """For people: the message, then name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return " ".join([super().format(record), *(f"{k}={v!r}" for k, v in _fields(record).items())])


def _fields(record: logging.LogRecord) -> dict[str, object]:
    given = {k: v for k, v in vars(record).items() if k not in _KNOWN and k != "settings"}
    return {**dict(_CONTEXT.get()), **given}
