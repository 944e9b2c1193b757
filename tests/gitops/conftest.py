"""One namespace with a running operator, and kubectl as people, Argo CD and Flux use it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from gitops.team import Team, eventually
from real.controlplane import ControlPlane
from real.operator_process import running_operator


@pytest.fixture
def team(_team: Team) -> Iterator[Team]:
    """The namespace, with no job before and after."""
    yield _team
    _team.plane.admin.delete(_team.path(""))
    eventually(lambda: not _team.plane.admin.items(_team.path("")), "all jobs are gone")


@pytest.fixture(scope="module")
def _team(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """The operator looks at every running job once a second, so that needless writes would show soon."""
    namespace, folder = f"gitops-{uuid.uuid4().hex[:8]}", tmp_path_factory.mktemp("gitops")
    control_plane.create_namespace(namespace)
    with running_operator(
        control_plane,
        folder / "operator.log",
        "-n",
        namespace,
        lease_namespace=namespace,
        study_url=f"journal://{folder}/study.log",
        KUBEAUTOML_RESYNC_SECONDS="1",
    ) as operator:
        operator.wait_said("leading")
        yield Team(control_plane, namespace, operator, f"journal://{folder}/study.log")
    control_plane.admin.delete(f"/api/v1/namespaces/{namespace}")
