"""The calls that the study server knows beside Optuna's own: fewer, larger ones, safe to send again.

Messages are Optuna's, or JSON where it has none. Two entries of a call's metadata belong to it: `REQUEST_ID` names it, so that a
repeated one finds what the first one did, and `IS_REPEAT` says that it is one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from optuna.storages._grpc.auto_generated import api_pb2

from kubeautoml.api.trials import FinishedTrial, RunningTrial
from kubeautoml.study.summary import StudyFacts

SERVICE = "kubeautoml.study.v1.Studies"
REQUEST_ID = "kubeautoml-request-id"
IS_REPEAT = "kubeautoml-is-repeat"

Codec = tuple[Callable[[Any], bytes], Callable[[bytes], Any]]
"""(to bytes, from bytes)"""


def _message(kind: Any) -> Codec:
    return kind.SerializeToString, kind.FromString


def _facts_to_bytes(facts: StudyFacts) -> bytes:
    return json.dumps(asdict(facts)).encode()


def _facts_from_bytes(data: bytes) -> StudyFacts:
    given = json.loads(data)
    running = tuple(RunningTrial(**t) for t in given.pop("running"))
    best = tuple(FinishedTrial(**t) for t in given.pop("best"))
    return StudyFacts(running=running, best=best, **given)


_JSON: Codec = (lambda value: json.dumps(value).encode(), json.loads)


@dataclass(frozen=True)
class Method:
    """One call: its name, and how request and reply cross the wire."""

    name: str
    request: Codec
    reply: Codec


METHODS = (
    # begin or queue a trial -> the trial
    Method("CreateTrial", _message(api_pb2.CreateNewTrialRequest), _message(api_pb2.GetTrialReply)),
    # begin a queued trial -> the trial; nothing when somebody else has begun it
    Method("ClaimTrial", _message(api_pb2.GetTrialRequest), _message(api_pb2.GetTrialReply)),
    # add all that is in the message to a trial, and end it when the message's state is not RUNNING
    Method("WriteTrial", _message(api_pb2.Trial), _message(api_pb2.SetTrialParameterReply)),
    Method("GetWaitingTrials", _message(api_pb2.GetTrialsRequest), _message(api_pb2.GetTrialsReply)),
    # preempted trials whose next attempt is missing
    Method("GetUnretriedTrials", _message(api_pb2.GetTrialsRequest), _message(api_pb2.GetTrialsReply)),
    Method("CountStudy", _message(api_pb2.GetStudyIdFromNameRequest), (_facts_to_bytes, _facts_from_bytes)),
    # by the beginning of their name
    Method("ListStudies", _message(api_pb2.GetStudyIdFromNameRequest), _JSON),
    Method("LatestStudy", _message(api_pb2.GetStudyIdFromNameRequest), _JSON),
)
