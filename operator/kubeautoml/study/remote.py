"""grpc://host:port: Optuna's storage protocol to the study server, made to outlive a restart of the server.

Optuna's own client knows neither TLS nor tokens, and gives up at the first refused connection. This one tries again
while the server is away, and makes the calls that would hurt when carried out twice safe to repeat.
"""

from __future__ import annotations

import random
import time
import uuid
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages._grpc.auto_generated import api_pb2_grpc
from optuna.storages._grpc.client import GrpcClientCache, GrpcStorageProxy
from optuna.trial import FrozenTrial, TrialState, create_trial

from kubeautoml.api.errors import StudyError

_REQUEST_ID = "kubeautoml:request"
_CALL_SECONDS = 60.0
_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 5.0
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
# What Optuna's client turns into the exceptions of its storages.
_ANSWERS = (
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
)
# Carried out twice it would leave a trial that nobody runs; `RemoteStorage.create_new_trial` repeats it with care.
_UNREPEATABLE = ("CreateNewTrial",)


def open_remote(
    target: str, tls: bool, token_file: Path | None, ca_file: Path | None, patience_seconds: float
) -> RemoteStorage:
    """A client of the study server at host:port; connects at the first call."""
    host, _, port = target.rstrip("/").rpartition(":")
    if not host or not port.isdigit():
        raise StudyError(f"study server must be given as host:port, got {target!r}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RemoteStorage(f"{host}:{port}", tls, token_file, ca_file, patience_seconds)


class RemoteStorage(GrpcStorageProxy):  # type: ignore[misc]  # optuna is read without types
    """Optuna's client over our channel."""

    def __init__(
        self, target: str, tls: bool, token_file: Path | None, ca_file: Path | None, patience_seconds: float
    ) -> None:
        self._target, self._tls, self._token_file, self._ca_file = target, tls, token_file, ca_file
        self._patience_seconds = patience_seconds
        host, _, port = target.rpartition(":")
        super().__init__(host=host, port=int(port))

    def _setup(self) -> None:
        self._channel = self._open_channel()
        stub = api_pb2_grpc.StorageServiceStub(self._channel)
        self._stub = _PatientStub(stub, self._target, _Token(self._token_file), self._patience_seconds)
        self._cache = GrpcClientCache(self._stub)

    def _open_channel(self) -> grpc.Channel:
        if not self._tls:
            return grpc.insecure_channel(self._target, options=_OPTIONS)
        try:
            authority = self._ca_file.read_bytes() if self._ca_file else None
        except OSError as error:
            raise StudyError(f"CA file {self._ca_file} cannot be read: {error.strerror}; check its mount") from error
        return grpc.secure_channel(self._target, grpc.ssl_channel_credentials(authority), options=_OPTIONS)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Carries an id, so that a repeated request finds the trial that the lost answer was about."""
        marked = template_trial or create_trial(state=TrialState.RUNNING)
        request_id = uuid.uuid4().hex
        marked.system_attrs = {**marked.system_attrs, _REQUEST_ID: request_id}
        send = super().create_new_trial
        return int(self._stub.patiently(lambda: send(study_id, marked), lambda: self._created_by(study_id, request_id)))

    def _created_by(self, study_id: int, request_id: str) -> int | None:
        trials = self.get_all_trials(study_id, deepcopy=False)
        return next((t._trial_id for t in reversed(trials) if t.system_attrs.get(_REQUEST_ID) == request_id), None)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """A repeated "finished" whose first answer was lost is no refusal, if the trial is finished just so."""
        repeats = self._stub.repeats
        try:
            return bool(super().set_trial_state_values(trial_id, state, values))
        except UpdateFinishedTrialError:
            if self._stub.repeats == repeats or not self._is_finished_so(trial_id, state, values):
                raise
            return True

    def _is_finished_so(self, trial_id: int, state: TrialState, values: Sequence[float] | None) -> bool:
        trial = self.get_trial(trial_id)
        return bool(trial.state == state and list(trial.values or []) == list(values or []))


class _PatientStub:
    """Calls the server's methods with token and time limit, again and again while the server is away."""

    def __init__(self, stub: Any, target: str, token: _Token, patience_seconds: float) -> None:
        self._stub, self._target, self._token, self._patience_seconds = stub, target, token, patience_seconds
        self.repeats = 0

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        method = getattr(self._stub, name)

        def call(request: Any) -> Any:
            return method(request, timeout=_CALL_SECONDS, metadata=self._token.metadata())

        if name in _UNREPEATABLE:
            return call
        return lambda request: self.patiently(lambda: call(request), lambda: None)

    def patiently(self, act: Callable[[], Any], done_before: Callable[[], Any]) -> Any:
        """Act until there is an answer; before each repetition, see whether it was done and only the answer was lost.

        Raises:
            StudyError: the server stayed away, or refuses this caller.
            grpc.RpcError: an answer that Optuna's client understands.
        """
        deadline = time.monotonic() + self._patience_seconds
        wait = _FIRST_WAIT_SECONDS
        while True:
            try:
                return act()
            except grpc.RpcError as error:
                if error.code() in _ANSWERS:
                    raise
                if error.code() not in _AWAY or time.monotonic() + wait > deadline:
                    raise _study_error(error, self._target, self._patience_seconds) from error
            time.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(wait * 1.6, _LONGEST_WAIT_SECONDS)
            self.repeats += 1
            if (found := done_before()) is not None:
                return found


class _Token:
    """A bearer token in a file that the kubelet rewrites from time to time."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._modified_ns = 0
        self._metadata: tuple[tuple[str, str], ...] = ()

    def metadata(self) -> tuple[tuple[str, str], ...]:
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


def _study_error(error: grpc.RpcError, target: str, patience_seconds: float) -> StudyError:
    code = error.code()
    detail = (error.details() or "").splitlines()[:1]
    what = f"{code.name}: {detail[0]}" if detail else code.name
    if code in _AWAY:
        return StudyError(
            f"study server {target} did not answer for {patience_seconds:.0f} s ({what}); "
            "check that it runs, and the host, port and TLS of the study URL"
        )
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return StudyError(f"study server {target} refused this pod ({what}); check its token and the study's name")
    return StudyError(f"study server {target} failed ({what}); see its log")
