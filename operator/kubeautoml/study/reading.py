"""Reads trials as messages of Optuna's protocol, straight from the rows: two queries for any number of trials."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from optuna.storages._grpc.auto_generated import api_pb2
from optuna.storages._grpc.servicer import DATETIME_FORMAT, _from_proto_trial, _to_proto_trial_state
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial

from kubeautoml.study.tables import PARAMS, STEPS, SYSTEM_ATTRS, TRIALS, USER_ATTRS, VALUES

Message = Any
"""api_pb2.Trial: parameters as Optuna stores them, attributes as JSON."""

_AT_ONCE = 5000
"""Trials whose rows are asked for in one query; databases bound the number of values in a query (SQLite: 32,766)."""

_INFINITE = {"INF_POS": float("inf"), "INF_NEG": float("-inf"), "NAN": float("nan")}


def read_trials(connection: Any, *conditions: Any, limit: int | None = None) -> list[Message]:
    """Trials that fulfil conditions on the table of trials, by id."""
    columns = (
        TRIALS.c.trial_id,
        TRIALS.c.number,
        TRIALS.c.state,
        TRIALS.c.datetime_start,
        TRIALS.c.datetime_complete,
    )
    query = sa.select(*columns).where(*conditions).order_by(TRIALS.c.trial_id).limit(limit)
    trials = {row.trial_id: _trial(row) for row in connection.execute(query)}
    ids = list(trials)
    for first in range(0, len(ids), _AT_ONCE):
        _fill(connection, trials, ids[first : first + _AT_ONCE])
    return list(trials.values())


def frozen(message: Message) -> FrozenTrial:
    """As Optuna's samplers want it."""
    return _from_proto_trial(message)


def _trial(row: Any) -> Message:
    return api_pb2.Trial(
        trial_id=row.trial_id,
        number=row.number,
        state=_to_proto_trial_state(row.state),
        datetime_start=shown_time(row.datetime_start),
        datetime_complete=shown_time(row.datetime_complete),
    )


def shown_time(moment: datetime | None) -> str:
    """Optuna stores UTC and shows local time."""
    return moment.replace(tzinfo=UTC).astimezone().strftime(DATETIME_FORMAT) if moment else ""


def _fill(connection: Any, trials: dict[int, Message], ids: Sequence[int]) -> None:
    values: dict[int, dict[int, float]] = {}
    for kind, trial_id, key, number, text in connection.execute(_rows_of(ids)):
        trial = trials[trial_id]
        if kind == "p":
            trial.params[key] = number
            trial.distributions[key] = text
        elif kind == "u":
            trial.user_attributes[key] = text
        elif kind == "s":
            trial.system_attributes[key] = text
        elif kind == "i":
            trial.intermediate_values[int(key)] = _INFINITE.get(text, number)
        else:
            values.setdefault(trial_id, {})[int(key)] = _INFINITE.get(text, number)
    for trial_id, by_objective in values.items():
        trials[trial_id].values.extend(by_objective[objective] for objective in sorted(by_objective))


def _rows_of(ids: Sequence[int]) -> Any:
    """(kind, trial, key, number, text) of all that belongs to trials: one query instead of five."""
    nothing, no_number = sa.literal(None, sa.Text), sa.literal(None, sa.Float(53))
    as_text = sa.Text

    def of(table: Any, kind: str, key: Any, number: Any, text: Any) -> Any:
        columns = (sa.literal(kind), table.c.trial_id, key, number, sa.func.coalesce(text, nothing))
        return sa.select(*columns).where(table.c.trial_id.in_(ids))

    return sa.union_all(
        of(PARAMS, "p", PARAMS.c.param_name, PARAMS.c.param_value, PARAMS.c.distribution_json),
        of(USER_ATTRS, "u", USER_ATTRS.c.key, no_number, USER_ATTRS.c.value_json),
        of(SYSTEM_ATTRS, "s", SYSTEM_ATTRS.c.key, no_number, SYSTEM_ATTRS.c.value_json),
        of(
            STEPS,
            "i",
            sa.cast(STEPS.c.step, as_text),
            STEPS.c.intermediate_value,
            sa.cast(STEPS.c.intermediate_value_type, as_text),
        ),
        of(VALUES, "v", sa.cast(VALUES.c.objective, as_text), VALUES.c.value, sa.cast(VALUES.c.value_type, as_text)),
    )


def stored_value(value: float) -> tuple[float | None, Any]:
    """An objective's value as Optuna stores it."""
    stored: tuple[float | None, Any] = models.TrialValueModel.value_to_stored_repr(value)
    return stored


def stored_step(value: float) -> tuple[float | None, Any]:
    """A reported value as Optuna stores it."""
    stored: tuple[float | None, Any] = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
    return stored


def changed_since(study_id: int, included: Sequence[int], greater_than: int) -> Iterator[Any]:
    """The conditions of Optuna's incremental read: trials begun after one, and older ones by their ids."""
    yield TRIALS.c.study_id == study_id
    older = [trial_id for trial_id in included if trial_id <= greater_than]
    if greater_than >= 0:
        newer = TRIALS.c.trial_id > greater_than
        yield sa.or_(newer, TRIALS.c.trial_id.in_(older)) if older else newer
