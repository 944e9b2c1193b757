"""Fixtures that every test folder shares; the real servers live in tests/real."""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["real.controlplane_fixtures", "real.s3_fixtures", "real.postgres_fixtures"]

# the programs that came with the tests' own environment are found whether or not it is activated
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


@pytest.fixture
def anyio_backend() -> str:
    """Coroutines run in asyncio, as in the operator."""
    return "asyncio"


@pytest.fixture(autouse=True)
def no_logs_of_others() -> Iterator[None]:
    """A command that ran within a test set up its process's logs: they end with it, and no later test finds them on its stderr."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        if type(handler) is logging.StreamHandler and handler not in handlers:
            root.removeHandler(handler)
    root.setLevel(level)
