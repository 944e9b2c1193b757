"""Where an example runs in earnest."""

from __future__ import annotations

from pathlib import Path

import pytest

from acceptance.place import Place
from real.controlplane import ControlPlane
from real.kubelet import Kubelet
from real.s3 import S3Server


@pytest.fixture
def place(control_plane: ControlPlane, kubelet: Kubelet, namespace: str, s3_server: S3Server, tmp_path: Path) -> Place:
    return Place(control_plane, kubelet, namespace, s3_server, tmp_path)
