"""Structured logs: one JSON object a line, with the job in every line of a pass."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

from kubeautoml.api.logs import JsonFormatter, TextFormatter, log_context


def logged(formatter: logging.Formatter) -> tuple[logging.Logger, io.StringIO]:
    """A logger of its own, and what it has written."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.getLogger("kubeautoml.test")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    return logger, stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_its_fields() -> None:
    """Time with its zone, level, logger, a constant message, and what was given beside it."""
    logger, stream = logged(JsonFormatter())

    logger.warning("trial failed", extra={"trial": 3})

    [line] = lines(stream)
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "warning", "logger": "kubeautoml.test", "message": "trial failed", "trial": 3}


def test_every_line_within_a_context_carries_it() -> None:
    """The innermost value wins; after the block nothing is left of it."""
    logger, stream = logged(JsonFormatter())

    with log_context(job="team-a/churn"):
        logger.info("one")
        with log_context(job="team-a/price", pod="p"):
            logger.info("two")
    logger.info("three")

    assert [(x.get("job"), x.get("pod")) for x in lines(stream)] == [
        ("team-a/churn", None),
        ("team-a/price", "p"),
        (None, None),
    ]


def test_an_exception_stays_on_its_line() -> None:
    """A traceback of many lines is one field, so that no collector tears it apart."""
    logger, stream = logged(JsonFormatter())

    try:
        raise ValueError("bug")
    except ValueError:
        logger.exception("pass failed")

    [line] = lines(stream)
    assert "ValueError: bug" in line["traceback"]


def test_people_get_the_same_as_text() -> None:
    """name=value behind the message."""
    logger, stream = logged(TextFormatter())

    with log_context(job="team-a/churn"):
        logger.info("pass done", extra={"seconds": 2})

    assert stream.getvalue().rstrip().endswith("kubeautoml.test: pass done job='team-a/churn' seconds=2")
