"""Optuna's tables, and the indexes that we add to them: Optuna works with or without, but scans a study for each trial."""

from __future__ import annotations

from typing import Any

import sqlalchemy
from optuna.storages._rdb import models
from sqlalchemy.dialects import postgresql, sqlite

STUDIES: Any = models.StudyModel.__table__
DIRECTIONS: Any = models.StudyDirectionModel.__table__
STUDY_USER_ATTRS: Any = models.StudyUserAttributeModel.__table__
STUDY_SYSTEM_ATTRS: Any = models.StudySystemAttributeModel.__table__
TRIALS: Any = models.TrialModel.__table__
PARAMS: Any = models.TrialParamModel.__table__
VALUES: Any = models.TrialValueModel.__table__
STEPS: Any = models.TrialIntermediateValueModel.__table__
USER_ATTRS: Any = models.TrialUserAttributeModel.__table__
SYSTEM_ATTRS: Any = models.TrialSystemAttributeModel.__table__
HEARTBEATS: Any = models.TrialHeartbeatModel.__table__

OF_A_TRIAL = (PARAMS, VALUES, STEPS, USER_ATTRS, SYSTEM_ATTRS, HEARTBEATS)
OF_A_STUDY = (DIRECTIONS, STUDY_USER_ATTRS, STUDY_SYSTEM_ATTRS)

_INDEXES = {
    "kubeautoml_trials_by_number": "trials (study_id, number)",
    "kubeautoml_trials_by_state": "trials (study_id, state)",
    "kubeautoml_retries": "trial_user_attributes (value_json, trial_id) WHERE key = 'retry_of'",
}


def create_indexes(engine: Any) -> None:
    """Make those that are missing. Left out where the user owns the tables no more than to read and write them."""
    there = {
        index["name"] for table in (TRIALS, USER_ATTRS) for index in sqlalchemy.inspect(engine).get_indexes(table.name)
    }
    for name in _INDEXES.keys() - there:
        try:
            with engine.begin() as connection:
                connection.exec_driver_sql(f"CREATE INDEX IF NOT EXISTS {name} ON {_INDEXES[name]}")
        except sqlalchemy.exc.ProgrammingError:  # must be owner of table
            return


def upsert(connection: Any, table: Any, rows: list[dict[str, Any]], keys: tuple[str, ...]) -> None:
    """Insert rows, or replace those that are there: so a write may come twice."""
    if not rows:
        return
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table)
    others = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=others), rows)
