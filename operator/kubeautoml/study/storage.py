"""Opens the shared study by URL.

journal:///path                a file, for runs on one machine
sqlite:///path                 a small database in a file
postgresql://user@host/db      a database of your own
grpc://host:port, grpcs://...  the study server
"""

from __future__ import annotations

import logging
from pathlib import Path

import optuna
from optuna.storages import BaseStorage

from kubeautoml.api.errors import StudyError
from kubeautoml.study.base import shown

# Optuna prints a line a trial, with parameters, on stderr; what it says is in the study anyway.
optuna.logging.disable_default_handler()
optuna.logging.set_verbosity(logging.ERROR)


def open_study_storage(
    url: str,
    token_file: Path | None = None,
    ca_file: Path | None = None,
    connections: int = 2,
    patience_seconds: float = 180.0,
) -> BaseStorage:
    """Open the storage that holds a study, creating file or tables when absent.

    Args:
        token_file: bearer token for the study server; read again when it changes, as the kubelet rotates it.
        ca_file: authority that signed the server's certificate (grpcs only); default: the system's.
        connections: to keep open to PostgreSQL; as many again may be opened for a moment.
        patience_seconds: how long a call waits for a study server or a database that is away. Workers wait long, since giving up
            costs a trial and a rescheduled pod takes a minute or two; whoever has other things to do passes a few seconds.

    Raises:
        StudyError: one line that names the URL (without its password), what is wrong and what to do.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "journal" and rest.startswith("/"):
        from kubeautoml.study.journal import open_journal

        return open_journal(Path(rest))
    if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        from kubeautoml.study.database import open_database

        # SQLAlchemy takes what follows the third slash; a fourth makes the path absolute, which we always mean.
        return open_database("sqlite:////" + rest.lstrip("/"), patience_seconds=patience_seconds)
    if scheme in ("postgresql", "postgres", "postgresql+psycopg") and rest:
        from kubeautoml.study.database import open_database

        return open_database(url, connections, patience_seconds)
    if scheme in ("grpc", "grpcs") and rest:
        from kubeautoml.study.remote import open_remote

        return open_remote(
            rest, tls=scheme == "grpcs", token_file=token_file, ca_file=ca_file, patience_seconds=patience_seconds
        )
    raise StudyError(
        f"study URL must be journal:///path, sqlite:///path, postgresql://..., grpc://host:port or grpcs://host:port, "
        f"got {shown(url)!r}"
    )
