"""grpc://host:port: Optuna's storage protocol to the study server, made to outlive a restart of the server.

Optuna's own client knows neither TLS nor tokens, gives up at the first refused connection, and sends every parameter and
attribute in a call of its own. This one tries again while the server is away, with calls that may be repeated, and
sends what it writes about its own running trials together.
"""

from __future__ import annotations

import atexit
import copy
import json
import logging
import time
import uuid
import warnings
import weakref
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages._grpc.auto_generated import api_pb2
from optuna.storages._grpc.client import GrpcClientCache, GrpcStorageProxy
from optuna.storages._grpc.servicer import _from_proto_trial, _to_proto_trial, _to_proto_trial_state
from optuna.trial import FrozenTrial, TrialState

from kubeautoml.api.errors import StudyError
from kubeautoml.study.drafts import Drafts
from kubeautoml.study.link import Link
from kubeautoml.study.summary import StudyFacts

log = logging.getLogger(__name__)

TRUST_SECONDS = 2.0
"""How long a trial that this process runs is read from its memory: only a retirement changes it from outside, and whoever
retires it waits longer than this anyway. A guess."""


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
    """Optuna's client over our link."""

    def __init__(
        self, target: str, tls: bool, token_file: Path | None, ca_file: Path | None, patience_seconds: float
    ) -> None:
        self._link_arguments = (target, tls, token_file, ca_file, patience_seconds)
        host, _, port = target.rpartition(":")
        super().__init__(host=host, port=int(port))

    def _setup(self) -> None:
        self._stub = self._channel = Link(*self._link_arguments)
        self._cache = GrpcClientCache(self._stub)
        self._drafts = Drafts(lambda trial_id: api_pb2.Trial(trial_id=trial_id), self._write)
        self._own: dict[int, _OwnTrial] = {}
        _flush_at_exit(self)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in ("_drafts", "_own")}

    # Trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        request = api_pb2.CreateNewTrialRequest(study_id=study_id, template_trial_is_none=template_trial is None)
        if template_trial is not None:
            request.template_trial.CopyFrom(_to_proto_trial(template_trial))
        with _exceptions():
            reply = self._stub.call("CreateTrial", request, uuid.uuid4().hex)
        self._keep(_from_proto_trial(reply.trial))
        return int(reply.trial.trial_id)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        if state == TrialState.RUNNING:
            return self._claim(trial_id)

        def end(message: Any) -> None:
            message.state = _to_proto_trial_state(state)
            message.values.extend(values or ())

        self._drafts.flush(trial_id, end)
        self._own.pop(trial_id, None)
        return True

    def _claim(self, trial_id: int) -> bool:
        with _exceptions():
            reply = self._stub.call("ClaimTrial", api_pb2.GetTrialRequest(trial_id=trial_id), uuid.uuid4().hex)
        if not reply.HasField("trial"):
            return False
        self._keep(_from_proto_trial(reply.trial))
        return True

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        def fill(message: Any) -> None:
            message.params[param_name] = param_value_internal
            message.distributions[param_name] = distribution_to_json(distribution)

        self._add(trial_id, fill)
        if own := self._own.get(trial_id):
            own.trial.distributions[param_name] = distribution
            own.trial.params[param_name] = distribution.to_external_repr(param_value_internal)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        def fill(message: Any) -> None:
            message.intermediate_values[step] = intermediate_value

        self._add(trial_id, fill)
        if own := self._own.get(trial_id):
            own.trial.intermediate_values[step] = intermediate_value

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        text = json.dumps(value)
        self._add(trial_id, lambda message: message.user_attributes.update({key: text}))
        if own := self._own.get(trial_id):
            own.trial.user_attrs[key] = json.loads(text)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        text = json.dumps(value)
        self._add(trial_id, lambda message: message.system_attributes.update({key: text}))
        if own := self._own.get(trial_id):
            own.trial.system_attrs[key] = json.loads(text)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        own = self._own.get(trial_id)
        if own is not None and time.monotonic() - own.read_at < TRUST_SECONDS:
            return own.copy()
        self._drafts.flush(trial_id)
        trial = super().get_trial(trial_id)
        if own is not None:
            self._keep(trial)
        return trial

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if isinstance(states, tuple) and states == (TrialState.WAITING,):
            with _exceptions():
                reply = self._stub.GetWaitingTrials(api_pb2.GetTrialsRequest(study_id=study_id))
            return [_from_proto_trial(trial) for trial in reply.trials]
        self._drafts.flush_all()
        trials: list[FrozenTrial] = super().get_all_trials(study_id, deepcopy=deepcopy, states=states)
        self._notice_ends(study_id)
        return trials

    # What only our server knows

    def count_study(self, name: str) -> StudyFacts | None:
        """A study's facts; None when there is no such study."""
        self._drafts.flush_all()
        facts: StudyFacts | None = self._find("CountStudy", name)
        return facts

    def unretried_trials(self, study_id: int) -> list[FrozenTrial]:
        """Preempted trials whose next attempt is missing."""
        self._drafts.flush_all()
        reply = self._stub.GetUnretriedTrials(api_pb2.GetTrialsRequest(study_id=study_id))
        return [_from_proto_trial(trial) for trial in reply.trials]

    def list_studies(self, prefix: str = "") -> list[str]:
        """Names that begin like this, the oldest first."""
        return list(self._stub.ListStudies(api_pb2.GetStudyIdFromNameRequest(study_name=prefix)))

    def latest_study(self, prefix: str) -> str | None:
        """The newest study whose name begins like this and that has a completed trial."""
        name: str | None = self._find("LatestStudy", prefix)
        return name

    def _find(self, call: str, name: str) -> Any:
        try:
            with _exceptions():
                return self._stub.call(call, api_pb2.GetStudyIdFromNameRequest(study_name=name))
        except KeyError:
            return None

    def flush(self) -> None:
        """Send what is still unsent; the end of a trial, and every reading, does so anyway."""
        self._drafts.flush_all()

    def close(self) -> None:
        """Send what is unsent, and close the channel."""
        self.flush()
        self._stub.close()

    def _add(self, trial_id: int, fill: Callable[[Any], None]) -> None:
        """Writes about trials that others run are few, and somebody waits for what they say: sent at once."""
        self._drafts.add(trial_id, fill)
        if trial_id not in self._own:
            self._drafts.flush(trial_id)

    def _write(self, message: Any) -> None:
        try:
            with _exceptions():
                self._stub.call("WriteTrial", message, uuid.uuid4().hex)
        except UpdateFinishedTrialError:  # retired: what else is written about it is refused at once
            self._own.pop(message.trial_id, None)
            raise

    def _keep(self, trial: FrozenTrial) -> None:
        if trial.state == TrialState.RUNNING:
            self._own[trial._trial_id] = _OwnTrial(trial, time.monotonic())
        else:
            self._own.pop(trial._trial_id, None)

    def _notice_ends(self, study_id: int) -> None:
        """Somebody may have retired our trials."""
        seen = self._cache.studies.get(study_id)
        for trial_id, own in list(self._own.items()):
            trial = seen.trials.get(own.trial.number) if seen is not None else None
            if trial is not None and trial._trial_id == trial_id and trial.state.is_finished():
                self._own.pop(trial_id, None)


class _OwnTrial:
    """A running trial that this process began: nobody else writes to it, unless to retire it."""

    def __init__(self, trial: FrozenTrial, read_at: float) -> None:
        self.trial, self.read_at = trial, read_at

    def copy(self) -> FrozenTrial:
        trial = copy.copy(self.trial)
        trial.distributions, trial.params = dict(trial.distributions), dict(trial.params)
        trial.user_attrs, trial.system_attrs = dict(trial.user_attrs), dict(trial.system_attrs)
        trial.intermediate_values = dict(trial.intermediate_values)
        return trial


@contextmanager
def _exceptions() -> Iterator[None]:
    """A server's answer as the exception that Optuna's storages raise."""
    try:
        yield
    except grpc.RpcError as error:
        kinds = {
            grpc.StatusCode.NOT_FOUND: KeyError,
            grpc.StatusCode.FAILED_PRECONDITION: UpdateFinishedTrialError,
            grpc.StatusCode.INVALID_ARGUMENT: ValueError,
        }
        if error.code() not in kinds:
            raise
        raise kinds[error.code()](error.details()) from error


def _flush_at_exit(storage: RemoteStorage) -> None:
    """A process that leaves right after its last write has written it."""
    alive = weakref.ref(storage)

    def flush() -> None:
        if (still := alive()) is not None:
            try:
                still.flush()
            except StudyError as error:
                log.warning("last writes to the study were lost", extra={"error": str(error)})

    atexit.register(flush)
    weakref.finalize(storage, atexit.unregister, flush).atexit = False
