"""A place to store under each scheme: every test that asks for `place` holds for files and for S3."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from kubeautoml.storage import ObjectStore, open_store


@dataclass(frozen=True)
class Place:
    """An empty place that may be written; `root` ends in "/"."""

    store: ObjectStore
    root: str
    credentials_dir: Path | None


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.s3)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "file":
        root = f"file://{tmp_path}/lake/"
        return Place(open_store(root), root, None)
    root = f"{request.getfixturevalue('s3_bucket')}lake/"
    credentials = request.getfixturevalue("s3_credentials")
    return Place(open_store(root, credentials), root, credentials)
