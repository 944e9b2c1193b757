"""sqlite:///path and postgresql://...: the study in a database, as a direct client uses it."""

from __future__ import annotations

import fcntl
import logging
import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import _CachedStorage
from optuna.storages._grpc.servicer import _to_proto_trial
from optuna.trial import FrozenTrial, TrialState

from kubeautoml.api.errors import StudyError
from kubeautoml.study.backend import Database, is_passing
from kubeautoml.study.base import shown
from kubeautoml.study.reading import frozen
from kubeautoml.study.summary import StudyFacts
from kubeautoml.study.tables import create_indexes

log = logging.getLogger(__name__)

T = TypeVar("T")

_SCHEMA_LOCK = 0x6B75_6265  # "kube": any number will do, as long as all processes agree
_SCHEMA_TRIES = 5
_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 5.0
_AWAY = (
    "onnection refused",
    "onnection reset",
    "timeout expired",
    "closed the connection",
    "failed to resolve host",
    "terminating connection",
    "connection is lost",
    "consuming input failed",
)
"""What PostgreSQL's client says when the server leaves, has left, or is not there yet."""

_CONNECT: dict[str, Any] = {
    "connect_timeout": 10,
    # a database host that vanished without a word must not hold a call for the two hours that TCP would
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


class DirectDatabase(_CachedStorage):  # type: ignore[misc]  # optuna is read without types
    """A client's own way to the database, with Optuna's cache of finished trials; it waits for a database that is away."""

    def __init__(self, backend: Database, place: str, patience_seconds: float) -> None:
        super().__init__(backend)
        self._backend: Database = backend
        self._place = place
        self._patience_seconds = patience_seconds

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Carries an id, so that a repeated request finds the trial that the lost answer was about."""
        template = _to_proto_trial(template_trial) if template_trial else None
        create = partial(self._backend.create_trial, study_id, template, uuid.uuid4().hex)
        trial = frozen(self._patiently(lambda repeats: create(is_repeat=repeats > 0)))
        with self._lock:
            self._studies.setdefault(study_id, _new_study())
            self._add_trials_to_cache(study_id, [trial])
        return int(trial._trial_id)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        # Optuna's cache would look for the trial among those that it created or listed itself
        write = partial(self._backend._set_trial_param, trial_id, param_name, param_value_internal, distribution, None)
        self._patiently(lambda _: write())

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Any = None) -> bool:
        request_id = uuid.uuid4().hex
        if state == TrialState.RUNNING:
            return self._patiently(lambda _: self._backend.claim_trial(trial_id, request_id))
        end = partial(self._backend.set_trial_state_values, trial_id, state, values)
        return self._patiently(lambda repeats: end(is_repeat=repeats > 0))

    def delete_study(self, study_id: int) -> None:
        def delete(repeats: int) -> None:
            try:
                super(DirectDatabase, self).delete_study(study_id)
            except KeyError:
                if not repeats:
                    raise

        self._patiently(delete)

    def count_study(self, name: str) -> StudyFacts | None:
        """A study's facts; None when there is no such study."""
        return self._patiently(lambda _: self._backend.count_study(name))

    def unretried_trials(self, study_id: int) -> list[FrozenTrial]:
        """Preempted trials whose next attempt is missing."""
        return self._patiently(lambda _: self._backend.unretried_trials(study_id))

    def list_studies(self, prefix: str = "") -> list[str]:
        """Names that begin like this."""
        return self._patiently(lambda _: self._backend.list_studies(prefix))

    def latest_study(self, prefix: str) -> str | None:
        """The newest study whose name begins like this and that has a completed trial."""
        return self._patiently(lambda _: self._backend.latest_study(prefix))

    def _patiently(self, act: Callable[[int], T]) -> T:
        """Act until the database answers; `act` is told how often it was tried before.

        Raises:
            StudyError: it did not answer for so long.
        """
        deadline = time.monotonic() + self._patience_seconds
        wait, repeats = _FIRST_WAIT_SECONDS, 0
        while True:
            try:
                return act(repeats)
            except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
                if not is_passing(error):
                    raise
                if time.monotonic() + wait > deadline:
                    why = _first_line(error, self._place)
                    raise StudyError(
                        f"study database {self._place} did not answer for {self._patience_seconds:.0f} s: {why}"
                    ) from error
            time.sleep(wait * random.uniform(0.5, 1.0))
            wait, repeats = min(wait * 1.6, _LONGEST_WAIT_SECONDS), repeats + 1


def _patient(name: str) -> Callable[..., Any]:
    """Optuna's method, again and again while the database is away: reading and setting may be repeated as they are."""
    method = getattr(_CachedStorage, name)

    def call(self: DirectDatabase, *args: Any, **kwargs: Any) -> Any:
        return self._patiently(lambda _: method(self, *args, **kwargs))

    return call


for _name in (
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "get_trial_id_from_study_id_trial_number",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "get_trial",
    "get_all_trials",
    "get_best_trial",
    "create_new_study",
):
    setattr(DirectDatabase, _name, _patient(_name))


def open_database(url: str, pool_size: int = 2, patience_seconds: float = 180.0) -> DirectDatabase:
    """A client of the study's tables; see `open_backend`. Waits for a database that is away."""
    return DirectDatabase(wait_for_backend(url, pool_size, patience_seconds), shown(url), patience_seconds)


def wait_for_backend(url: str, pool_size: int, patience_seconds: float) -> Database:
    """`open_backend`, with patience for a database that is away: it may be restarting, as this process does.

    Raises:
        StudyError: as `open_backend`.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return open_backend(url, pool_size)
        except StudyError as error:
            if time.monotonic() > deadline or not is_away(error):
                raise
            log.warning("no answer at the start; trying again", extra={"error": str(error)})
        time.sleep(random.uniform(0.5, 1.5))


def is_away(error: StudyError) -> bool:
    """A server that refuses connections for now; not one that refuses the user, the password or the name."""
    return _is_starting(error) or any(text in str(error) for text in _AWAY)


def open_backend(url: str, pool_size: int = 2) -> Database:
    """The study's tables, created when absent.

    Args:
        pool_size: connections kept open; as many again may be opened for a moment.

    Raises:
        StudyError: the driver is missing, the server refuses or is not there, or the tables belong to another Optuna.
    """
    try:
        return _open_sqlite(url) if url.startswith("sqlite:") else _open_postgresql(url, pool_size)
    except (ImportError, RuntimeError, sqlalchemy.exc.SQLAlchemyError, StorageInternalError, OSError) as error:
        why = _first_line(error, url)
        raise StudyError(f"study database {shown(url)} cannot be opened: {why}; {_what_to_do(error)}") from error


def _open_sqlite(url: str) -> Database:
    """One writer at a time. Every transaction takes the write lock at its start, since two that read first and write
    later (such as two workers claiming the same waiting trial) would otherwise both succeed."""
    path = Path(url.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{path}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        first = Database(url)
        create_indexes(first.engine)
        first.engine.dispose()
    storage = Database(
        url, engine_kwargs={"connect_args": {"timeout": 60}}, skip_table_creation=True, skip_compatibility_check=True
    )
    _begin_immediately(storage.engine)
    return storage


def _begin_immediately(engine: Any) -> None:
    def no_driver_transactions(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()
    sqlalchemy.event.listen(engine, "connect", no_driver_transactions)
    sqlalchemy.event.listen(engine, "begin", begin)


def _open_postgresql(url: str, pool_size: int) -> Database:
    internal = "postgresql+psycopg://" + url.split("://", 1)[1]
    options = {
        "pool_pre_ping": True,
        "pool_size": pool_size,
        "max_overflow": pool_size,
        "pool_recycle": 1800,
        "connect_args": _CONNECT,
    }
    for left in reversed(range(_SCHEMA_TRIES)):
        try:
            with _schema_lock(internal):
                # RDBStorage formats its URL, so braces in a password must be doubled.
                storage = Database(internal.replace("{", "{{").replace("}", "}}"), engine_kwargs=dict(options))
                create_indexes(storage.engine)
                return storage
        except sqlalchemy.exc.OperationalError as error:
            if left == 0 or not _is_starting(error):
                raise
            time.sleep(0.5)
    raise AssertionError("unreachable")


@contextmanager
def _schema_lock(url: str) -> Iterator[None]:
    """Lets one process at a time create the tables: two at once make each other fail."""
    engine = sqlalchemy.create_engine(
        url, poolclass=sqlalchemy.pool.NullPool, connect_args=_CONNECT, isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({_SCHEMA_LOCK})")
        yield


def _is_starting(error: Exception) -> bool:
    """A server that is starting, shutting down or full, which a moment may cure."""
    words = ("starting up", "not yet accepting", "shutting down", "too many clients", "recovery")
    return any(text in str(error) for text in words)


def _first_line(error: BaseException, url: str) -> str:
    """The error's own words, without the password."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    text = str(getattr(cause, "orig", None) or cause).strip() or type(cause).__name__
    return f"its driver is missing ({text})" if isinstance(cause, ImportError) else shown(text.splitlines()[0])


def _what_to_do(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    if isinstance(cause, ImportError):
        return "install it with: pip install 'kubeautoml[study]'"
    return "check host, port, user, password and database name"


def _new_study() -> Any:
    from optuna.storages._cached_storage import _StudyInfo

    return _StudyInfo()
