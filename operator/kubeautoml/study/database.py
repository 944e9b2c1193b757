"""sqlite:///path and postgresql://...: the study in a database, through Optuna's RDB storage and its cache."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, _CachedStorage
from optuna.storages._rdb import models

from kubeautoml.api.errors import StudyError
from kubeautoml.study.base import shown

_SCHEMA_LOCK = 0x6B75_6265  # "kube": any number will do, as long as all processes agree
_SCHEMA_TRIES = 5


class CachedDatabase(_CachedStorage):  # type: ignore[misc]  # optuna is read without types
    """Optuna's cache, made to survive the restart of the process that holds it.

    Optuna's knows only trials that it created or listed itself, and says "no such trial" to a parameter of any other:
    so a study server started again in the middle of a trial would fail it.
    """

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        if trial_id not in self._trial_id_to_study_id_and_number:
            self._read_trials_from_remote_storage(_study_of(self._backend, trial_id))
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)


def open_database(url: str, pool_size: int = 2) -> CachedDatabase:
    """The study's tables, created when absent.

    Args:
        pool_size: connections kept open; as many again may be opened for a moment.

    Raises:
        StudyError: the driver is missing, the server refuses or is not there, or the tables belong to another Optuna.
    """
    try:
        storage = _open_sqlite(url) if url.startswith("sqlite:") else _open_postgresql(url, pool_size)
    except (ImportError, RuntimeError, sqlalchemy.exc.SQLAlchemyError, StorageInternalError, OSError) as error:
        raise StudyError(f"study database {shown(url)} cannot be opened: {_first_line(error, url)}") from error
    return CachedDatabase(storage)


def _open_sqlite(url: str) -> RDBStorage:
    """One writer at a time. Every transaction takes the write lock at its start, since two that read first and write
    later (such as two workers claiming the same waiting trial) would otherwise both succeed."""
    path = Path(url.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{path}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        RDBStorage(url).engine.dispose()
    storage = RDBStorage(
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


def _open_postgresql(url: str, pool_size: int) -> RDBStorage:
    internal = "postgresql+psycopg://" + url.split("://", 1)[1]
    options = {
        "pool_pre_ping": True,
        "pool_size": pool_size,
        "max_overflow": pool_size,
        "pool_recycle": 1800,
        "connect_args": {"connect_timeout": 10},
    }
    for left in reversed(range(_SCHEMA_TRIES)):
        try:
            with _schema_lock(internal):
                # RDBStorage formats its URL, so braces in a password must be doubled.
                return RDBStorage(internal.replace("{", "{{").replace("}", "}}"), engine_kwargs=dict(options))
        except sqlalchemy.exc.OperationalError as error:
            if left == 0 or not _is_passing(error):
                raise
            time.sleep(0.5)
    raise AssertionError("unreachable")


@contextmanager
def _schema_lock(url: str) -> Iterator[None]:
    """Lets one process at a time create the tables: two at once make each other fail."""
    engine = sqlalchemy.create_engine(
        url, poolclass=sqlalchemy.pool.NullPool, connect_args={"connect_timeout": 10}, isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({_SCHEMA_LOCK})")
        yield


def _is_passing(error: Exception) -> bool:
    """A server that is starting, shutting down or full, which a moment may cure."""
    return any(text in str(error) for text in ("starting up", "shutting down", "too many clients", "recovery"))


def _study_of(storage: RDBStorage, trial_id: int) -> int:
    """Raises KeyError when there is no such trial."""
    with storage.engine.connect() as connection:
        query = sqlalchemy.select(models.TrialModel.study_id).where(models.TrialModel.trial_id == trial_id)
        study_id = connection.execute(query).scalar()
    if study_id is None:
        raise KeyError(f"no trial with id {trial_id}")
    return int(study_id)


def _first_line(error: BaseException, url: str) -> str:
    """What to tell the user, from the error's own words, without the password."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    text = str(getattr(cause, "orig", None) or cause).strip() or type(cause).__name__
    if isinstance(cause, ImportError):
        return f"its driver is missing ({text}); install it with: pip install 'kubeautoml[study]'"
    line = shown(text.splitlines()[0])
    return f"{line}; check host, port, user, password and database name"
