"""Fixtures that every test folder shares; the real servers live in tests/real."""

import os
import sys
from pathlib import Path

import pytest

pytest_plugins = ["real.controlplane_fixtures", "real.s3_fixtures", "real.postgres_fixtures"]

# the programs that came with the tests' own environment are found whether or not it is activated
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


@pytest.fixture
def anyio_backend() -> str:
    """Coroutines run in asyncio, as in the operator."""
    return "asyncio"
