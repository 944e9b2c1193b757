"""The wire to the study server: channel, token, time limits, and patience while the server is away."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from optuna.storages._grpc.auto_generated import api_pb2_grpc

from kubeautoml.api.errors import StudyError
from kubeautoml.study.protocol import IS_REPEAT, METHODS, REQUEST_ID, SERVICE

CALL_SECONDS = 60.0
_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 5.0
_TOKEN_SECONDS = 15.0
"""How long a refused token is sent again: the kubelet may be about to renew it."""

_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
# CANCELLED: another thread has opened the channel anew
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
# What the storages' exceptions are made of.
_ANSWERS = (
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
)
Metadata = tuple[tuple[str, str], ...]


class Link:
    """Calls the server, again and again while it is away. Optuna's methods are attributes, as of its own stub."""

    def __init__(
        self, target: str, tls: bool, token_file: Path | None, ca_file: Path | None, patience_seconds: float
    ) -> None:
        self._target, self._tls, self._patience_seconds = target, tls, patience_seconds
        self._token, self._authority = _Token(token_file), _Authority(ca_file)
        self._lock = threading.Lock()
        self.methods: dict[str, Callable[..., Any]] = {}
        self._channel = self._open()

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        if name not in self.methods:
            raise AttributeError(name)
        return lambda request: self.call(name, request)

    def call(self, name: str, request: Any, request_id: str = "") -> Any:
        """Send a request until there is an answer; from the second time on the server is told that it is a repetition.

        Raises:
            StudyError: the server stayed away, or refuses this caller.
            grpc.RpcError: an answer that storages understand.
        """
        started = time.monotonic()
        wait = _FIRST_WAIT_SECONDS
        about: Metadata = ((REQUEST_ID, request_id),) if request_id else ()
        while True:
            try:
                metadata = (*self._token.metadata(), *about)
                return self.methods[name](request, timeout=CALL_SECONDS, metadata=metadata)
            except grpc.RpcError as error:
                if error.code() in _ANSWERS:
                    raise
                if time.monotonic() + wait - started > self._patience_with(error):
                    raise self._study_error(error) from error
            except ValueError:  # another thread has closed this channel, to open it anew
                if time.monotonic() + wait - started > self._patience_seconds:
                    raise
            time.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(wait * 1.6, _LONGEST_WAIT_SECONDS)
            about = ((REQUEST_ID, request_id), (IS_REPEAT, "1"))
            self._trust_anew()

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _open(self) -> Any:
        channel = self._new_channel()
        optuna = api_pb2_grpc.StorageServiceStub(channel)
        ours = {
            method.name: channel.unary_unary(
                f"/{SERVICE}/{method.name}",
                request_serializer=method.request[0],
                response_deserializer=method.reply[1],
            )
            for method in METHODS
        }
        self.methods = {**vars(optuna), **ours}
        return channel

    def _new_channel(self) -> Any:
        if not self._tls:
            return grpc.insecure_channel(self._target, options=_OPTIONS)
        return grpc.secure_channel(self._target, grpc.ssl_channel_credentials(self._authority.read()), options=_OPTIONS)

    def _trust_anew(self) -> None:
        """The authority may have been replaced while the server was not to be reached: a channel keeps its first one."""
        with self._lock:
            if self._tls and self._authority.has_changed():
                old, self._channel = self._channel, self._open()
                old.close()

    def _patience_with(self, error: grpc.RpcError) -> float:
        if error.code() in _AWAY:
            return self._patience_seconds
        is_token = error.code() == grpc.StatusCode.UNAUTHENTICATED
        return min(_TOKEN_SECONDS, self._patience_seconds) if is_token else -1.0

    def _study_error(self, error: grpc.RpcError) -> StudyError:
        code = error.code()
        detail = (error.details() or "").splitlines()[:1]
        what = f"{code.name}: {detail[0]}" if detail else code.name
        if code in _AWAY:
            return StudyError(
                f"study server {self._target} did not answer for {self._patience_seconds:.0f} s ({what}); "
                "check that it runs, and the host, port and TLS of the study URL"
            )
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return StudyError(
                f"study server {self._target} refused this pod ({what}); check its token and the study's name"
            )
        return StudyError(f"study server {self._target} failed ({what}); see its log")


class _Token:
    """A bearer token in a file that the kubelet rewrites from time to time."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._modified_ns = 0
        self._metadata: Metadata = ()

    def metadata(self) -> Metadata:
        if self._file is None:
            return ()
        try:
            modified_ns = self._file.stat().st_mtime_ns
            if modified_ns != self._modified_ns:
                self._metadata = (("authorization", f"Bearer {self._file.read_text().strip()}"),)
                self._modified_ns = modified_ns
        except OSError as error:
            raise StudyError(
                f"study token file {self._file} cannot be read: {error.strerror}; check the projected volume"
            ) from error
        return self._metadata


class _Authority:
    """The certificate authority in a file that may be replaced; the system's when there is none."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._read: bytes | None = None

    def read(self) -> bytes | None:
        self._read = self._content()
        return self._read

    def has_changed(self) -> bool:
        return self._content() != self._read

    def _content(self) -> bytes | None:
        try:
            return self._file.read_bytes() if self._file else None
        except OSError as error:
            raise StudyError(f"CA file {self._file} cannot be read: {error.strerror}; check its mount") from error
