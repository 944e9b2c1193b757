"""A study's facts by SQL: what `summary.facts_of` counts in Python, without reading the trials."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import TrialState

from kubeautoml.api.trials import MAX_ATTEMPTS, TrialAttr
from kubeautoml.study.reading import Message, frozen, read_trials
from kubeautoml.study.summary import BEST_SHOWN, StudyFacts, finished, running
from kubeautoml.study.tables import DIRECTIONS, STUDIES, STUDY_USER_ATTRS, TRIALS, USER_ATTRS, VALUES

_BEGINNING = datetime(1970, 1, 1)
_ENDED_AT = sa.func.coalesce(TRIALS.c.datetime_complete, _BEGINNING)


def count_study(connection: Any, name: str) -> StudyFacts | None:
    """The facts of a study; None when there is none of that name."""
    study_id = connection.execute(sa.select(STUDIES.c.study_id).where(STUDIES.c.study_name == name)).scalar()
    if study_id is None:
        return None
    of_study = TRIALS.c.study_id == study_id
    scored = _scored(connection, study_id)
    best = _in_order(read_trials(connection, TRIALS.c.trial_id.in_([row.trial_id for row in scored])), scored)
    attrs = sa.select(STUDY_USER_ATTRS.c.key, STUDY_USER_ATTRS.c.value_json)
    return StudyFacts(
        counts=_counts(connection, of_study),
        preempted=_preempted(connection, of_study),
        running=tuple(
            running(frozen(t)) for t in read_trials(connection, of_study, TRIALS.c.state == TrialState.RUNNING)
        ),
        best=tuple(finished(frozen(t)) for t in best),
        trials_since_best=_ended_after(connection, of_study, scored[0]) if scored else 0,
        error=_most_frequent_error(connection, of_study),
        attrs={k: json.loads(v) for k, v in connection.execute(attrs.where(STUDY_USER_ATTRS.c.study_id == study_id))},
    )


def unretried_trials(connection: Any, study_id: int) -> list[Message]:
    """Preempted trials whose next attempt is missing; of the last attempt none follows."""
    retry = TRIALS.alias("retry")
    retry_of = USER_ATTRS.alias("retry_of")
    next_attempt = sa.select(sa.literal(1)).select_from(retry.join(retry_of, retry_of.c.trial_id == retry.c.trial_id))
    next_attempt = next_attempt.where(
        retry.c.study_id == study_id,
        # the key as a literal: so the index over retries is found
        retry_of.c.key == sa.literal_column(f"'{TrialAttr.RETRY_OF.value}'"),
        retry_of.c.value_json == sa.cast(TRIALS.c.number, sa.Text),
    )
    preempted = sa.select(USER_ATTRS.c.trial_id).where(
        USER_ATTRS.c.trial_id == TRIALS.c.trial_id,
        USER_ATTRS.c.key == TrialAttr.PREEMPTED.value,
        USER_ATTRS.c.value_json.not_in(_NOT_SET),
    )
    last = sa.select(USER_ATTRS.c.trial_id).where(
        USER_ATTRS.c.trial_id == TRIALS.c.trial_id,
        USER_ATTRS.c.key == TrialAttr.ATTEMPT.value,
        sa.cast(USER_ATTRS.c.value_json, sa.Integer) >= MAX_ATTEMPTS,
    )
    return read_trials(
        connection,
        TRIALS.c.study_id == study_id,
        TRIALS.c.state == TrialState.FAIL,
        preempted.exists(),
        ~last.exists(),
        ~next_attempt.exists(),
    )


_NOT_SET = ("false", "null", "0", '""', "[]", "{}")


def _counts(connection: Any, of_study: Any) -> dict[str, int]:
    query = sa.select(TRIALS.c.state, sa.func.count()).where(of_study).group_by(TRIALS.c.state)
    return {state.name: count for state, count in connection.execute(query)}


def _of_failed(of_study: Any, key: TrialAttr) -> Any:
    joined = TRIALS.join(USER_ATTRS, USER_ATTRS.c.trial_id == TRIALS.c.trial_id)
    where = (of_study, TRIALS.c.state == TrialState.FAIL, USER_ATTRS.c.key == key.value)
    count = sa.func.count().label("count")
    return sa.select(USER_ATTRS.c.value_json, count).select_from(joined).where(*where).group_by(USER_ATTRS.c.value_json)


def _preempted(connection: Any, of_study: Any) -> int:
    rows = connection.execute(_of_failed(of_study, TrialAttr.PREEMPTED))
    return sum(count for value, count in rows if json.loads(value))


def _most_frequent_error(connection: Any, of_study: Any) -> str | None:
    """Of equals the one that was met first, as `Counter` has it."""
    query = _of_failed(of_study, TrialAttr.ERROR).where(USER_ATTRS.c.value_json != "null")
    order = (sa.desc(sa.func.count()), sa.func.min(TRIALS.c.number))
    row = connection.execute(query.order_by(*order).limit(1)).first()
    return str(json.loads(row[0])) if row else None


def _scored(connection: Any, study_id: int) -> list[Any]:
    """The best completed trials with a finite value; of equals the one that ended first."""
    direction = connection.execute(
        sa.select(DIRECTIONS.c.direction).where(DIRECTIONS.c.study_id == study_id, DIRECTIONS.c.objective == 0)
    ).scalar()
    value = VALUES.c.value.desc() if direction == StudyDirection.MAXIMIZE else VALUES.c.value.asc()
    ended_at = _ENDED_AT.label("ended_at")
    query = sa.select(TRIALS.c.trial_id, TRIALS.c.number, ended_at)
    query = query.select_from(TRIALS.join(VALUES, VALUES.c.trial_id == TRIALS.c.trial_id)).where(
        TRIALS.c.study_id == study_id,
        TRIALS.c.state == TrialState.COMPLETE,
        VALUES.c.objective == 0,
        VALUES.c.value_type == models.TrialValueModel.TrialValueType.FINITE,
        VALUES.c.value.between(-sys.float_info.max, sys.float_info.max),  # neither NaN nor, in SQLite, NULL
    )
    return list(connection.execute(query.order_by(value, ended_at, TRIALS.c.number).limit(BEST_SHOWN)))


def _in_order(trials: list[Message], rows: list[Any]) -> list[Message]:
    by_id = {trial.trial_id: trial for trial in trials}
    return [by_id[row.trial_id] for row in rows]


def _ended_after(connection: Any, of_study: Any, best: Any) -> int:
    """Trials completed or pruned after the best one."""
    later = sa.or_(best.ended_at < _ENDED_AT, sa.and_(best.ended_at == _ENDED_AT, TRIALS.c.number > best.number))
    ended = TRIALS.c.state.in_((TrialState.COMPLETE, TrialState.PRUNED))
    return int(connection.execute(sa.select(sa.func.count()).where(of_study, ended, later)).scalar_one())
