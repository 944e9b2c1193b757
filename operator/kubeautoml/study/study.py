"""Creates the shared study, and carries values between the operator and the pods in its user attributes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage

from kubeautoml.api.errors import StudyError
from kubeautoml.api.metrics import Direction
from kubeautoml.api.trials import DataFacts, Failure, JobResult, StudyAttr, StudyLimits, VariantFacts

T = TypeVar("T")

_VALUE_OF: dict[StudyAttr, type[Any]] = {
    StudyAttr.LIMITS: StudyLimits,
    StudyAttr.DATA: DataFacts,
    StudyAttr.FAILURE: Failure,
    StudyAttr.RESULT: JobResult,
}


def create_study(storage: BaseStorage, name: str, direction: Direction | str) -> optuna.Study:
    """The study of that name; made if it is not there, loaded if it is. Safe from several processes at once.

    Args:
        direction: how the objective is better: Maximize or Minimize (any case).

    Raises:
        StudyError: the study exists and goes the other way.
    """
    wanted = str(getattr(direction, "value", direction)).lower()
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction=wanted, load_if_exists=True)
    except DuplicatedStudyError:  # another process made it between our look and our attempt
        study = optuna.load_study(storage=storage, study_name=name)
    if study.direction.name.lower() != wanted:
        raise StudyError(
            f"study {name} exists and is to {study.direction.name.lower()}, not to {wanted}; use another name or metric"
        )
    return study


def set_study_attr(study: optuna.Study, attr: StudyAttr, value: Any) -> None:
    """Write an attribute: one of the dataclasses of `api.trials`, or a plain JSON value."""
    study.set_user_attr(attr.value, dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value)  # type: ignore[arg-type]


def study_attr(study: optuna.Study, attr: StudyAttr) -> Any:
    """Read an attribute as it was written: its dataclass, or the plain value; None when absent."""
    return parse_attr(attr, study.user_attrs.get(attr.value))


def read_limits(study: optuna.Study) -> StudyLimits | None:
    """What ends the search, or None while the operator has not written it."""
    limits: StudyLimits | None = study_attr(study, StudyAttr.LIMITS)
    return limits


def parse_attr(attr: StudyAttr, value: Any) -> Any:
    """The stored JSON value of an attribute as its dataclass."""
    kind = _VALUE_OF.get(attr)
    if value is None or kind is None:
        return value
    try:
        return _from_json(kind, value)
    except (TypeError, AttributeError) as error:
        raise StudyError(
            f"study attribute {attr.value} must hold a {kind.__name__}, got {str(value)[:200]}; "
            "operator and pods must be of one version"
        ) from error


def _from_json(kind: type[T], value: Mapping[str, Any]) -> T:
    """Fields that this version does not know are ignored, so that a newer writer does not stop an older reader."""
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    found = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items() if k in known}
    if kind is JobResult:
        found["variants"] = tuple(_from_json(VariantFacts, v) for v in found.get("variants", ()))
    return kind(**found)


def is_fenced(error: BaseException) -> bool:
    """Whether an error of `tell`, `report` or `set_user_attr` means that somebody else has finished this trial.

    A worker whose pod was thought gone gets it, and must stop the trial: its parameters are already queued again.
    """
    if isinstance(error, UpdateFinishedTrialError):
        return True
    return isinstance(error, ValueError) and str(error).startswith("Cannot tell a ")
