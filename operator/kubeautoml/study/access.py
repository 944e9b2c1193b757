"""Decides which study a call concerns, and whether its caller may touch it.

A pod may use its own job's study: read all of it, write all but what the operator alone writes. It may read the studies that its own
study's `warm_start` names, of its own namespace. Everything else does not exist for it: a foreign study and one
that is not there are refused with the same words, so ids cannot be guessed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Protocol

from kubeautoml.api.names import LABEL_JOB, Component, finalizer_job_name, labels, worker_job_name
from kubeautoml.api.trials import StudyAttr
from kubeautoml.study.identity import Caller, Forbidden

OPERATORS_OWN = frozenset({StudyAttr.LIMITS.value, StudyAttr.WARM_START.value})
"""Attributes of a study that only the operator writes."""

_MOST_REMEMBERED = 50_000


class Use(Enum):
    """What a call does, and how it names the study."""

    READ_BY_NAME = auto()
    CREATE_BY_NAME = auto()
    READ_STUDY = auto()
    WRITE_STUDY = auto()
    WRITE_STUDY_ATTR = auto()
    READ_TRIAL = auto()
    WRITE_TRIAL = auto()
    LIST = auto()
    """The answer is built from what the caller may read."""
    OPERATE = auto()


USE_OF = {
    "CreateNewStudy": Use.CREATE_BY_NAME,
    "DeleteStudy": Use.OPERATE,
    "SetStudyUserAttribute": Use.WRITE_STUDY_ATTR,
    "SetStudySystemAttribute": Use.WRITE_STUDY,
    "GetStudyIdFromName": Use.READ_BY_NAME,
    "GetStudyNameFromId": Use.READ_STUDY,
    "GetStudyDirections": Use.READ_STUDY,
    "GetStudyUserAttributes": Use.READ_STUDY,
    "GetStudySystemAttributes": Use.READ_STUDY,
    "GetAllStudies": Use.LIST,
    "CreateNewTrial": Use.WRITE_STUDY,
    "SetTrialParameter": Use.WRITE_TRIAL,
    "GetTrialIdFromStudyIdTrialNumber": Use.READ_STUDY,
    "SetTrialStateValues": Use.WRITE_TRIAL,
    "SetTrialIntermediateValue": Use.WRITE_TRIAL,
    "SetTrialUserAttribute": Use.WRITE_TRIAL,
    "SetTrialSystemAttribute": Use.WRITE_TRIAL,
    "GetTrial": Use.READ_TRIAL,
    "GetTrials": Use.READ_STUDY,
    "CreateTrial": Use.WRITE_STUDY,
    "ClaimTrial": Use.WRITE_TRIAL,
    "WriteTrial": Use.WRITE_TRIAL,
    "GetWaitingTrials": Use.READ_STUDY,
    "GetUnretriedTrials": Use.OPERATE,
    "CountStudy": Use.READ_BY_NAME,
    "ListStudies": Use.OPERATE,
    "LatestStudy": Use.OPERATE,
}
"""Every call of both protocols; one that is not here is refused."""


class Names(Protocol):
    """What access asks the database."""

    def get_study_id_from_name(self, study_name: str) -> int: ...

    def get_study_name_from_id(self, study_id: int) -> str: ...

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]: ...

    def study_of(self, trial_id: int) -> int: ...

    def list_studies(self, prefix: str = "") -> list[str]: ...


class Access:
    """Who may touch what, over one database. Threads may share it."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._study_of_trial = _Remembered(names.study_of)
        self._name_of_study = _Remembered(names.get_study_name_from_id)

    def check(self, caller: Caller, call: str, request: Any) -> None:
        """Let a call pass.

        Raises:
            Forbidden: the caller may not do this.
        """
        if caller.is_operator:
            if call == "DeleteStudy":
                self.forget()
            return
        use = USE_OF.get(call, Use.OPERATE)
        if use is Use.LIST:
            return
        if use is Use.OPERATE:
            raise Forbidden(f"{call} is for the operator only")
        name = self._name(use, request)
        if is_own(caller, name):
            if use is Use.WRITE_STUDY_ATTR and request.key in OPERATORS_OWN:
                raise Forbidden(f"attribute {request.key} is written by the operator only")
            return
        reads = use in (Use.READ_BY_NAME, Use.READ_STUDY, Use.READ_TRIAL)
        if reads and name in self.readable(caller):
            return
        raise Forbidden(f"{call} concerns no study of the job that this pod works for")

    def readable(self, caller: Caller) -> frozenset[str]:
        """Foreign studies that a pod may read: those that the operator has written into its own study."""
        own = self.own_study(caller)
        if own is None:
            return frozenset()
        try:
            listed = self._names.get_study_user_attrs(self._names.get_study_id_from_name(own)).get(
                StudyAttr.WARM_START.value
            )
        except KeyError:  # deleted just now
            return frozenset()
        names = listed if isinstance(listed, list | tuple) else ()
        return frozenset(str(n) for n in names if str(n).startswith(f"{caller.namespace}/"))

    def own_study(self, caller: Caller) -> str | None:
        """Name of the pod's own study; None while it is not there."""
        names = self._names.list_studies(f"{caller.namespace}/")
        return next((name for name in names if is_own(caller, name)), None)

    def forget(self) -> None:
        """A study is deleted: SQLite may give its id, and those of its trials, to others."""
        self._study_of_trial.clear()
        self._name_of_study.clear()

    def _name(self, use: Use, request: Any) -> str:
        """The study's name; empty when there is no such study or trial."""
        if use in (Use.READ_BY_NAME, Use.CREATE_BY_NAME):
            return str(request.study_name)
        try:
            is_trial = use in (Use.READ_TRIAL, Use.WRITE_TRIAL)
            study_id = self._study_of_trial(request.trial_id) if is_trial else request.study_id
            return str(self._name_of_study(study_id))
        except KeyError:
            return ""


def is_own(caller: Caller, study: str) -> bool:
    """Whether a study is that of the job that a pod works for.

    Namespace and uid must be the pod's; its label and the name of the Job that controls it must be made from the job's name.
    """
    parts = study.split("/")
    if len(parts) != 3 or not all(parts):
        return False
    namespace, job, uid = parts
    return (
        (namespace, uid) == (caller.namespace, caller.job_uid)
        and labels(job, uid, Component.WORKER)[LABEL_JOB] == caller.job_label
        and caller.owner in (worker_job_name(job, uid), finalizer_job_name(job, uid))
    )


class _Remembered:
    """A function whose answers never change, with the latest of them kept. What it raises is not."""

    def __init__(self, ask: Callable[[int], Any]) -> None:
        self._ask = ask
        self._known: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, key: int) -> Any:
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        answer = self._ask(key)
        with self._lock:
            self._known[key] = answer
            while len(self._known) > _MOST_REMEMBERED:
                self._known.popitem(last=False)
        return answer

    def clear(self) -> None:
        with self._lock:
            self._known.clear()
