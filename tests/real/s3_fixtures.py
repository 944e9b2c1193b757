"""Fixtures of the real S3 server; loaded by tests/conftest.py. Tests that use them carry the mark `s3`."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from real.s3 import S3Server, running_s3


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One server for the whole session."""
    with running_s3() as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> str:
    """A fresh bucket: s3://test-.../ ."""
    return s3_server.create_bucket(f"test-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def s3_credentials(s3_server: S3Server, tmp_path: Path) -> Path:
    """A folder with keys and endpoint, as the kubelet mounts a secret."""
    return s3_server.write_credentials(tmp_path / "s3-credentials")
