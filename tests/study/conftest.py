"""One study under each kind of URL: every test that asks for `study_url` holds for all four."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.storages import BaseStorage

from kubeautoml.study import open_study_storage
from real.postgres import PostgresServer
from real.study_server import StudyServerProcess, running_study_server

KINDS = [
    "journal",
    "sqlite",
    pytest.param("postgresql", marks=pytest.mark.postgres),
    pytest.param("grpc", marks=pytest.mark.postgres),
]


@pytest.fixture(scope="session")
def study_server(postgres_server: PostgresServer) -> Iterator[StudyServerProcess]:
    """One study server in front of PostgreSQL for the whole session; tests differ by the study's name."""
    with running_study_server(postgres_server.create_database()) as server:
        yield server


@pytest.fixture(params=KINDS)
def study_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the study is."""
    urls = {"journal": f"journal://{tmp_path}/study.log", "sqlite": f"sqlite://{tmp_path}/study.db"}
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    if request.param == "grpc":
        return str(request.getfixturevalue("study_server").url)
    return urls[request.param]


@pytest.fixture
def name() -> str:
    """The name of a study that no other test uses."""
    return f"team-a/churn/{uuid.uuid4()}"


@pytest.fixture
def storage(study_url: str) -> BaseStorage:
    return open_study_storage(study_url)
