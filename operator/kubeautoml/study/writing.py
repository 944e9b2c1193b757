"""Writes trials: all that is known of one in a single transaction, and every write such that it may come twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from optuna.distributions import check_distribution_compatibility, json_to_distribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages._grpc.auto_generated import api_pb2
from optuna.storages._grpc.servicer import DATETIME_FORMAT, _from_proto_trial_state
from optuna.trial import TrialState

from kubeautoml.api.trials import TrialAttr
from kubeautoml.study.reading import Message, read_trials, shown_time, stored_step, stored_value
from kubeautoml.study.tables import PARAMS, STEPS, STUDIES, SYSTEM_ATTRS, TRIALS, USER_ATTRS, VALUES, upsert

REQUEST = "kubeautoml:request"
"""System attribute of a trial: the request that created or claimed it, so that a repeated one finds what it did."""


class Spaces:
    """The first distribution of each parameter of each study, as JSON: later ones must be compatible."""

    def __init__(self, most_studies: int = 1000) -> None:
        self._most = most_studies
        self._of: dict[int, dict[str, str]] = {}

    def forget(self, study_id: int) -> None:
        """The study is deleted."""
        self._of.pop(study_id, None)

    def refused(self, connection: Any, study_id: int, distributions: Mapping[str, str]) -> dict[str, str]:
        """Why each parameter whose distribution does not fit the study's earlier trials is refused."""
        known = self._of.setdefault(study_id, {})
        why = {}
        for name, text in distributions.items():
            if name not in known:
                known[name] = self._first(connection, study_id, name) or text
            if known[name] != text and (reason := _conflict(known[name], text)):
                why[name] = f"parameter {name}: {reason}"
        while len(self._of) > self._most:
            self._of.pop(next(iter(self._of)), None)
        return why

    @staticmethod
    def _first(connection: Any, study_id: int, name: str) -> str | None:
        query = sa.select(PARAMS.c.distribution_json).join(TRIALS, TRIALS.c.trial_id == PARAMS.c.trial_id)
        query = query.where(TRIALS.c.study_id == study_id, PARAMS.c.param_name == name).limit(1)
        text: str | None = connection.execute(query).scalar()
        return text


def _conflict(known: str, given: str) -> str:
    try:
        check_distribution_compatibility(json_to_distribution(known), json_to_distribution(given))
    except ValueError as error:
        return str(error)
    return ""


def create_trial(
    connection: Any, study_id: int, template: Message | None, spaces: Spaces, request_id: str, is_repeat: bool
) -> Message:
    """Begin a trial, or queue one.

    A request that comes again finds the trial that it made. So does the retry of a trial: there is one, whoever asks.

    Raises:
        KeyError: there is no such study.
        ValueError: a parameter does not fit the study's earlier trials.
    """
    # Optuna locks the study, too: numbers must follow each other, and ids must become visible in their order.
    lock = sa.select(STUDIES.c.study_id).where(STUDIES.c.study_id == study_id).with_for_update()
    if connection.execute(lock).scalar() is None:
        raise KeyError(f"no study with id {study_id}")
    made = _made_before(connection, study_id, template, request_id if is_repeat else "")
    if made is not None:
        return made
    if template is not None:
        _refuse(spaces.refused(connection, study_id, template.distributions))
    trial = _insert(connection, study_id, template)
    if request_id:
        trial.system_attributes[REQUEST] = json.dumps(request_id)
    _write_all(connection, trial, trial.params)
    _write_values(connection, trial)
    return trial


def _made_before(connection: Any, study_id: int, template: Message | None, request_id: str) -> Message | None:
    retry_of = template.user_attributes.get(TrialAttr.RETRY_OF.value) if template is not None else None
    if retry_of is not None:
        found = _trial_with(connection, study_id, USER_ATTRS, TrialAttr.RETRY_OF.value, retry_of)
    elif request_id:
        found = _trial_with(connection, study_id, SYSTEM_ATTRS, REQUEST, json.dumps(request_id))
    else:
        return None
    return read_trials(connection, TRIALS.c.trial_id == found)[0] if found is not None else None


def _trial_with(connection: Any, study_id: int, attrs: Any, key: str, value_json: str) -> int | None:
    query = sa.select(TRIALS.c.trial_id).join(attrs, attrs.c.trial_id == TRIALS.c.trial_id)
    # the key as a literal: the index over retries holds these only, and is found by it
    found: int | None = connection.execute(
        query.where(
            TRIALS.c.study_id == study_id,
            attrs.c.key == sa.literal_column(f"'{key}'"),
            attrs.c.value_json == value_json,
        )
    ).scalar()
    return found


def _insert(connection: Any, study_id: int, template: Message | None) -> Message:
    trial = api_pb2.Trial(state=api_pb2.RUNNING, datetime_start=shown_time(_now()))
    if template is not None:
        trial.CopyFrom(template)
    row = {
        "study_id": study_id,
        "number": sa.select(sa.func.coalesce(sa.func.max(TRIALS.c.number), -1) + 1)
        .where(TRIALS.c.study_id == study_id)
        .scalar_subquery(),
        "state": _from_proto_trial_state(trial.state),
        "datetime_start": _utc(trial.datetime_start),
        "datetime_complete": _utc(trial.datetime_complete),
    }
    made = connection.execute(sa.insert(TRIALS).values(row).returning(TRIALS.c.trial_id, TRIALS.c.number)).one()
    trial.trial_id, trial.number = made
    return trial


@dataclass(frozen=True)
class Written:
    """What became of a write."""

    refused: Mapping[str, str] = field(default_factory=dict)
    """Parameter -> why it was refused; then the trial is not ended."""
    trial_seconds: float | None = None
    """How long the trial ran that this write has ended."""


def write_trial(connection: Any, writes: Message, state: TrialState | None, spaces: Spaces, is_repeat: bool) -> Written:
    """Add to a trial, and end it if `state` is given: all of it or nothing, but for parameters that are refused.

    Raises:
        KeyError: there is no such trial.
        UpdateFinishedTrialError: it has ended. A repeated end whose first answer was lost is none, if it ended just so.
    """
    columns = (TRIALS.c.state, TRIALS.c.study_id, TRIALS.c.datetime_start)
    query = sa.select(*columns).where(TRIALS.c.trial_id == writes.trial_id).with_for_update()
    row = connection.execute(query).first()
    if row is None:
        raise KeyError(f"no trial with id {writes.trial_id}")
    if row.state.is_finished():
        if is_repeat and state == row.state and _values(connection, writes.trial_id) == list(writes.values):
            return Written()
        raise UpdateFinishedTrialError(f"trial with id {writes.trial_id} has already finished and cannot be updated")
    refused = spaces.refused(connection, row.study_id, writes.distributions) if writes.params else {}
    _write_all(connection, writes, {k: v for k, v in writes.params.items() if k not in refused})
    if state is None or refused:
        return Written(refused)
    _write_values(connection, writes)
    now = _now()
    end = {"state": state, **({"datetime_complete": now} if state.is_finished() else {})}
    connection.execute(sa.update(TRIALS).where(TRIALS.c.trial_id == writes.trial_id).values(**end))
    if not state.is_finished() or row.datetime_start is None:
        return Written()
    return Written(trial_seconds=(now - row.datetime_start).total_seconds())


def claim_trial(connection: Any, trial_id: int, request_id: str) -> bool:
    """Begin a queued trial; False when somebody else has begun it.

    Raises:
        KeyError: there is no such trial.
        UpdateFinishedTrialError: it has ended.
    """
    is_waiting = (TRIALS.c.trial_id == trial_id, TRIALS.c.state == TrialState.WAITING)
    begun = sa.update(TRIALS).where(*is_waiting).values(state=TrialState.RUNNING, datetime_start=_now())
    if connection.execute(begun).rowcount:
        if request_id:
            _write_attrs(connection, SYSTEM_ATTRS, trial_id, {REQUEST: json.dumps(request_id)})
        return True
    state = connection.execute(sa.select(TRIALS.c.state).where(TRIALS.c.trial_id == trial_id)).scalar()
    if state is None:
        raise KeyError(f"no trial with id {trial_id}")
    if state.is_finished():
        raise UpdateFinishedTrialError(f"trial with id {trial_id} has already finished and cannot be updated")
    mine = sa.select(SYSTEM_ATTRS.c.value_json).where(
        SYSTEM_ATTRS.c.trial_id == trial_id, SYSTEM_ATTRS.c.key == REQUEST
    )
    return bool(request_id) and connection.execute(mine).scalar() == json.dumps(request_id)


def _refuse(why: Mapping[str, str]) -> None:
    if why:
        raise ValueError("; ".join(why.values()))


def _write_all(connection: Any, writes: Message, params: Mapping[str, float]) -> None:
    trial_id = writes.trial_id
    rows = [
        {"trial_id": trial_id, "param_name": k, "param_value": v, "distribution_json": writes.distributions[k]}
        for k, v in params.items()
    ]
    upsert(connection, PARAMS, rows, ("trial_id", "param_name"))
    _write_attrs(connection, USER_ATTRS, trial_id, writes.user_attributes)
    _write_attrs(connection, SYSTEM_ATTRS, trial_id, writes.system_attributes)
    steps = []
    for step, value in writes.intermediate_values.items():
        stored, kind = stored_step(value)
        steps.append(
            {"trial_id": trial_id, "step": step, "intermediate_value": stored, "intermediate_value_type": kind}
        )
    upsert(connection, STEPS, steps, ("trial_id", "step"))


def _write_attrs(connection: Any, table: Any, trial_id: int, attrs: Mapping[str, str]) -> None:
    rows = [{"trial_id": trial_id, "key": k, "value_json": v} for k, v in attrs.items()]
    upsert(connection, table, rows, ("trial_id", "key"))


def _write_values(connection: Any, writes: Message) -> None:
    rows = []
    for objective, value in enumerate(writes.values):
        stored, kind = stored_value(value)
        rows.append({"trial_id": writes.trial_id, "objective": objective, "value": stored, "value_type": kind})
    upsert(connection, VALUES, rows, ("trial_id", "objective"))


def _values(connection: Any, trial_id: int) -> list[float]:
    return list(read_trials(connection, TRIALS.c.trial_id == trial_id)[0].values)


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _utc(shown: str) -> datetime | None:
    return datetime.strptime(shown, DATETIME_FORMAT).astimezone(UTC).replace(tzinfo=None) if shown else None
