"""What tests of several families share."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubeautoml_trainer.features import encoders
from models.encoder_factories import write_encoder


@pytest.fixture
def own_shelf(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the text encoders of another."""
    monkeypatch.setattr(encoders, "_SHELF", encoders._Shelf({}))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny text encoder."""
    return write_encoder(tmp_path_factory.mktemp("weights") / "bert")
