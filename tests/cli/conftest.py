"""The command on a namespace of the real API server."""

from __future__ import annotations

import pytest

from cli.clusters import Cluster
from real.controlplane import ControlPlane


@pytest.fixture
def cluster(control_plane: ControlPlane, namespace: str, capsys: pytest.CaptureFixture[str]) -> Cluster:
    return Cluster(control_plane, namespace, capsys)
