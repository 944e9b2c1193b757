"""Optuna's tables in one database, as the study server and direct clients use them.

Optuna's own storage takes a transaction for every parameter and attribute, reads a trial in six queries, counts all trials
to number the next one and loads a study to delete it. Here these take one transaction, two queries, an index and a DELETE.
Everything else is Optuna's. It keeps no trials in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Sequence
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._grpc.auto_generated import api_pb2
from optuna.storages._grpc.servicer import _to_proto_trial
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kubeautoml.study.counting import count_study, unretried_trials
from kubeautoml.study.reading import Message, changed_since, frozen, read_trials
from kubeautoml.study.summary import StudyFacts
from kubeautoml.study.tables import OF_A_STUDY, OF_A_TRIAL, STUDIES, STUDY_USER_ATTRS, TRIALS
from kubeautoml.study.writing import Spaces, claim_trial, create_trial, write_trial

_PASSING = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)


def is_passing(error: BaseException) -> bool:
    """Whether a database that is away, restarting or full is to blame, so that the same call may succeed later."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return isinstance(cause, _PASSING)


class Database(RDBStorage):  # type: ignore[misc]  # optuna is read without types
    """Optuna's storage with our own statements where they matter. Every write may be repeated."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._spaces = Spaces()
        self.on_trial_end: Callable[[TrialState, float], None] = lambda state, seconds: None
        """Told of every trial that has ended, with the seconds it ran."""

    # Trials, as messages of Optuna's protocol

    def create_trial(
        self, study_id: int, template: Message | None, request_id: str = "", is_repeat: bool = False
    ) -> Message:
        """Begin or queue a trial; see `writing.create_trial`."""
        with self.engine.begin() as connection:
            return create_trial(connection, study_id, template, self._spaces, request_id, is_repeat)

    def write_trial(self, writes: Message, state: TrialState | None = None, is_repeat: bool = False) -> None:
        """Add to a trial, and end it when `state` is given.

        Raises:
            KeyError: there is no such trial.
            UpdateFinishedTrialError: it has ended.
            ValueError: parameters do not fit the study's earlier trials. All else is written, but the trial goes on.
        """
        with self.engine.begin() as connection:
            written = write_trial(connection, writes, state, self._spaces, is_repeat)
        if written.refused:
            raise ValueError("; ".join(written.refused.values()))
        if state is not None and written.trial_seconds is not None:
            self.on_trial_end(state, written.trial_seconds)

    def claim_trial(self, trial_id: int, request_id: str = "") -> bool:
        """Begin a queued trial; see `writing.claim_trial`."""
        with self.engine.begin() as connection:
            return claim_trial(connection, trial_id, request_id)

    def changed_trials(self, study_id: int, included: Sequence[int], greater_than: int) -> list[Message]:
        """Trials with an id above one, and others by their id.

        Raises:
            KeyError: there is no such study.
        """
        with self.engine.connect() as connection:
            trials = read_trials(connection, *changed_since(study_id, included, greater_than))
            if not trials:
                _require_study(connection, study_id)
            return trials

    def waiting_trials(self, study_id: int) -> list[Message]:
        """Queued trials, by their number.

        Raises:
            KeyError: there is no such study.
        """
        with self.engine.connect() as connection:
            trials = read_trials(connection, TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.WAITING)
            if not trials:
                _require_study(connection, study_id)
            return trials

    def unretried_trials(self, study_id: int) -> list[FrozenTrial]:
        """Preempted trials whose next attempt is missing."""
        with self.engine.connect() as connection:
            return [frozen(trial) for trial in unretried_trials(connection, study_id)]

    def study_of(self, trial_id: int) -> int:
        """Id of the study that a trial belongs to.

        Raises:
            KeyError: there is no such trial.
        """
        with self.engine.connect() as connection:
            study_id = connection.execute(sa.select(TRIALS.c.study_id).where(TRIALS.c.trial_id == trial_id)).scalar()
        if study_id is None:
            raise KeyError(f"no trial with id {trial_id}")
        return int(study_id)

    # Studies

    def count_study(self, name: str) -> StudyFacts | None:
        """A study's facts; None when there is no such study."""
        with self.engine.connect() as connection:
            return count_study(connection, name)

    def list_studies(self, prefix: str = "") -> list[str]:
        """Names that begin like this, the newest last."""
        query = sa.select(STUDIES.c.study_name).where(STUDIES.c.study_name.startswith(prefix, autoescape=True))
        with self.engine.connect() as connection:
            return list(connection.execute(query.order_by(STUDIES.c.study_id)).scalars())

    def latest_study(self, prefix: str) -> str | None:
        """The newest study whose name begins like this and that has a completed trial."""
        completed = sa.exists().where(TRIALS.c.study_id == STUDIES.c.study_id, TRIALS.c.state == TrialState.COMPLETE)
        query = sa.select(STUDIES.c.study_name).where(
            STUDIES.c.study_name.startswith(prefix, autoescape=True), completed
        )
        with self.engine.connect() as connection:
            name: str | None = connection.execute(query.order_by(STUDIES.c.study_id.desc()).limit(1)).scalar()
        return name

    def describe_studies(self, names: Sequence[str]) -> list[Message]:
        """Studies as Optuna's protocol lists them; names that are not there are left out."""
        found = []
        for name in names:
            try:
                study_id = self.get_study_id_from_name(name)
                found.append(
                    api_pb2.Study(
                        study_id=study_id,
                        study_name=name,
                        directions=[_direction(d) for d in self.get_study_directions(study_id)],
                        user_attributes=_as_json(self.get_study_user_attrs(study_id)),
                        system_attributes=_as_json(self.get_study_system_attrs(study_id)),
                    )
                )
            except KeyError:
                continue
        return found

    def delete_study(self, study_id: int) -> None:
        """Delete a study with all its trials, however many."""
        trials = sa.select(TRIALS.c.trial_id).where(TRIALS.c.study_id == study_id)
        with self.engine.begin() as connection:
            _require_study(connection, study_id, lock=True)
            for table in OF_A_TRIAL:
                connection.execute(sa.delete(table).where(table.c.trial_id.in_(trials)))
            for table in (TRIALS, *OF_A_STUDY, STUDIES):
                connection.execute(sa.delete(table).where(table.c.study_id == study_id))
        self._spaces.forget(study_id)

    # Optuna's storage interface, by the same statements

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        return frozen(self.create_trial(study_id, _to_proto_trial(template_trial) if template_trial else None))

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        space = {param_name: distribution_to_json(distribution)}
        self.write_trial(
            api_pb2.Trial(trial_id=trial_id, params={param_name: param_value_internal}, distributions=space)
        )

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        self.write_trial(api_pb2.Trial(trial_id=trial_id, intermediate_values={step: intermediate_value}))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.write_trial(api_pb2.Trial(trial_id=trial_id, user_attributes={key: json.dumps(value)}))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.write_trial(api_pb2.Trial(trial_id=trial_id, system_attributes={key: json.dumps(value)}))

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None, is_repeat: bool = False
    ) -> bool:
        if state == TrialState.RUNNING:
            return self.claim_trial(trial_id)
        self.write_trial(api_pb2.Trial(trial_id=trial_id, values=values), state, is_repeat)
        return True

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        attrs = STUDIES.outerjoin(STUDY_USER_ATTRS, STUDY_USER_ATTRS.c.study_id == STUDIES.c.study_id)
        query = sa.select(STUDY_USER_ATTRS.c.key, STUDY_USER_ATTRS.c.value_json).select_from(attrs)
        with self.engine.connect() as connection:
            rows = connection.execute(query.where(STUDIES.c.study_id == study_id)).all()
        if not rows:
            raise KeyError(f"no study with id {study_id}")
        return {key: json.loads(value) for key, value in rows if key is not None}

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return frozen(self.read_trial(trial_id))

    def read_trial(self, trial_id: int) -> Message:
        """One trial.

        Raises:
            KeyError: there is no such trial.
        """
        with self.engine.connect() as connection:
            found = read_trials(connection, TRIALS.c.trial_id == trial_id)
        if not found:
            raise KeyError(f"no trial with id {trial_id}")
        return found[0]

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        trials = map(frozen, self.changed_trials(study_id, sorted(included_trial_ids), trial_id_greater_than))
        return [trial for trial in trials if states is None or trial.state in states]


def _require_study(connection: Any, study_id: int, *, lock: bool = False) -> None:
    query = sa.select(STUDIES.c.study_id).where(STUDIES.c.study_id == study_id)
    if connection.execute(query.with_for_update() if lock else query).scalar() is None:
        raise KeyError(f"no study with id {study_id}")


def _direction(direction: StudyDirection) -> Any:
    return api_pb2.MINIMIZE if direction == StudyDirection.MINIMIZE else api_pb2.MAXIMIZE


def _as_json(attrs: dict[str, Any]) -> dict[str, str]:
    return {key: json.dumps(value) for key, value in attrs.items()}
