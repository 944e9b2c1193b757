"""Does a study server answer, and its database behind it? For `kubeautoml probe`, and without a token: health is told to everybody."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import grpc

from kubeautoml.api.errors import StudyError, UsageError
from kubeautoml.study.monitor import HEALTH_SERVICE, READINESS

SERVING = b"\x08\x01"
"""A HealthCheckResponse with status SERVING: field 1, number 1."""


def check_study_server(url: str, ca_file: Path | None, timeout_seconds: float = 5.0) -> None:
    """Ask once.

    Args:
        url: grpc://host:port or grpcs://host:port.
        ca_file: PEM, for grpcs; None: the system's authorities.

    Raises:
        StudyError: no answer, or the database does not answer the server.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("grpc", "grpcs") or not parts.hostname or not parts.port:
        raise UsageError(f"a study server's URL must be grpc://host:port or grpcs://host:port, got {url!r}")
    target = f"{parts.hostname}:{parts.port}"
    if parts.scheme == "grpc":
        channel = grpc.insecure_channel(target)
    else:
        channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(_read(ca_file) if ca_file else None))
    service = READINESS.encode()
    with channel:
        check = channel.unary_unary(f"/{HEALTH_SERVICE}/Check")
        try:
            answer = check(b"\x0a" + bytes([len(service)]) + service, timeout=timeout_seconds)
        except grpc.RpcError as error:
            raise StudyError(
                f"study server {target} does not answer: {error.code().name}: {error.details()}"
            ) from error
    if answer != SERVING:
        raise StudyError(f"study server {target} answers, but its database does not")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StudyError(f"{path} cannot be read: {error.strerror}; name the authority's PEM file") from error
