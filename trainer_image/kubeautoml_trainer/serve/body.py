"""Bodies of requests: how large, how encoded, and whether JSON at all."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from kubeautoml.api.errors import PredictionError

MAX_BODY_BYTES = 256 * 2**20
"""Larger requests are refused with 413 before they are parsed."""


async def read_body(request: Request) -> bytes:
    """The whole body, as it came.

    Raises:
        HTTPException: too large, compressed, or with binary tensors, which this server does not offer.
    """
    _check_headers(request)
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > MAX_BODY_BYTES:
                raise HTTPException(413, f"the body must be at most {MAX_BODY_BYTES} bytes, got more")
            parts.append(part)
    except ClientDisconnect as error:
        raise HTTPException(400, "the connection was closed before the body was complete") from error
    return b"".join(parts)


def _check_headers(request: Request) -> None:
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > MAX_BODY_BYTES:
        raise HTTPException(413, f"the body must be at most {MAX_BODY_BYTES} bytes, got {length}")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise HTTPException(415, f"Content-Encoding must be identity, got {encoding[:40]}; send the body uncompressed")
    if "inference-header-content-length" in request.headers:
        raise HTTPException(
            400, "binary tensor data is not supported (Inference-Header-Content-Length); send the tensors' data as JSON"
        )


def parse_json(body: bytes) -> Any:
    """The value. NaN and Infinity, which some clients send, become floats: missing the one, refused by name the other.

    Raises:
        PredictionError: it is not JSON in UTF-8, or holds what no program can use.
    """
    if not body.strip():
        raise PredictionError('the body must be JSON such as {"age": 42}, got nothing')
    try:
        value = json.loads(body.decode("utf-8-sig"), parse_int=_whole if _MANY_DIGITS.search(body) else None)
        if b"\\ud" in body.lower():
            # half a surrogate pair is JSON, but no text that could be encoded
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise PredictionError(f"the body must be JSON: {error}") from error
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise PredictionError(f"the body must be text in UTF-8: {error.reason}") from error
    except RecursionError as error:
        raise PredictionError("the body must be JSON of at most a few levels, got one nested far deeper") from error
    return value


_MANY_DIGITS = re.compile(rb"[0-9]{309}")


def _whole(text: str) -> int | float:
    """A whole number; infinite, as 1e999 is, where no float64 could hold it."""
    return float(text) if math.isinf(float(text)) else int(text)
