"""Answers the calls of Optuna's storage protocol and our own ones from one database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages._grpc.auto_generated import api_pb2, api_pb2_grpc
from optuna.storages._grpc.servicer import OptunaStorageProxyService, _from_proto_trial_state, _to_proto_trial

from kubeautoml.study.backend import Database
from kubeautoml.study.protocol import IS_REPEAT, METHODS, REQUEST_ID, SERVICE


class OptunaCalls(OptunaStorageProxyService):  # type: ignore[misc]  # optuna is read without types
    """Optuna's own servicer, which reads only what a call asks for, instead of the whole study."""

    def GetTrials(self, request: Any, context: Any) -> Any:
        with _answers(context):
            included = list(request.included_trial_ids)
            trials = self._backend.changed_trials(request.study_id, included, request.trial_id_greater_than)
            return api_pb2.GetTrialsReply(trials=trials)

    def GetTrial(self, request: Any, context: Any) -> Any:
        with _answers(context):
            return api_pb2.GetTrialReply(trial=self._backend.read_trial(request.trial_id))


class OurCalls:
    """The calls of `protocol.METHODS`, each by its name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def CreateTrial(self, request: Any, context: Any) -> Any:
        with _answers(context):
            template = None if request.template_trial_is_none else request.template_trial
            request_id, is_repeat = _call(context)
            trial = self._database.create_trial(request.study_id, template, request_id, is_repeat)
            return api_pb2.GetTrialReply(trial=trial)

    def ClaimTrial(self, request: Any, context: Any) -> Any:
        with _answers(context):
            if not self._database.claim_trial(request.trial_id, _call(context)[0]):
                return api_pb2.GetTrialReply()
            return api_pb2.GetTrialReply(trial=self._database.read_trial(request.trial_id))

    def WriteTrial(self, request: Any, context: Any) -> Any:
        with _answers(context):
            state = None if request.state == api_pb2.RUNNING else _from_proto_trial_state(request.state)
            self._database.write_trial(request, state, is_repeat=_call(context)[1])
            return api_pb2.SetTrialParameterReply()

    def GetWaitingTrials(self, request: Any, context: Any) -> Any:
        with _answers(context):
            return api_pb2.GetTrialsReply(trials=self._database.waiting_trials(request.study_id))

    def GetUnretriedTrials(self, request: Any, context: Any) -> Any:
        with _answers(context):
            found = self._database.unretried_trials(request.study_id)
            return api_pb2.GetTrialsReply(trials=[_to_proto_trial(trial) for trial in found])

    def CountStudy(self, request: Any, context: Any) -> Any:
        with _answers(context):
            return _found(self._database.count_study(request.study_name), request.study_name)

    def ListStudies(self, request: Any, _context: Any) -> Any:
        return self._database.list_studies(request.study_name)

    def LatestStudy(self, request: Any, context: Any) -> Any:
        with _answers(context):
            return _found(self._database.latest_study(request.study_name), request.study_name)


def _found(value: Any, name: str) -> Any:
    if value is None:
        raise KeyError(f"no study {name}")
    return value


def add_calls(server: Any, database: Database) -> None:
    """Let a gRPC server answer all calls."""
    api_pb2_grpc.add_StorageServiceServicer_to_server(OptunaCalls(database), server)
    ours = OurCalls(database)
    handlers = {
        method.name: grpc.unary_unary_rpc_method_handler(
            _bound(ours, method.name), request_deserializer=method.request[1], response_serializer=method.reply[0]
        )
        for method in METHODS
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


def _bound(calls: OurCalls, name: str) -> Callable[[Any, Any], Any]:
    return getattr(calls, name)  # type: ignore[no-any-return]


def _call(context: Any) -> tuple[str, bool]:
    """(the call's id, whether it was sent before)"""
    given = dict(context.invocation_metadata())
    return str(given.get(REQUEST_ID, "")), IS_REPEAT in given


@contextmanager
def _answers(context: Any) -> Iterator[None]:
    """Optuna's exceptions as the codes that its client turns into them again."""
    try:
        yield
    except KeyError as error:
        context.abort(grpc.StatusCode.NOT_FOUND, str(error.args[0] if error.args else error))
    except UpdateFinishedTrialError as error:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
    except ValueError as error:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
