"""Fixtures of the real PostgreSQL server, loaded by tests/conftest.py. Tests that use them carry the mark postgres."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from real.postgres import PostgresServer, running_postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for the whole session."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of an empty database for one test."""
    return postgres_server.create_database()
