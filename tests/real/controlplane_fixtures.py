"""Fixtures of the real control plane and its test kubelet; loaded by tests/conftest.py.

Tests that use them carry the mark `controlplane`. Tests marked `cel` need a newer server than the oldest one that can be
had everywhere; with an old one they are left out, and the summary says so.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from real.binaries import Binaries, MissingBinaries, find_binaries
from real.controlplane import ControlPlane, running_control_plane

if TYPE_CHECKING:
    from kubeautoml.cluster.kube import KubeCluster
    from real.kubelet import Kubelet

CRDS = Path(__file__).resolve().parents[2] / "crds"
CEL_SINCE = (1, 29, 0)
_left_out = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """One API server for the whole session, with our CRDs."""
    with running_control_plane(CRDS) as plane:
        yield plane


@pytest.fixture(scope="session")
def node(control_plane: ControlPlane) -> Iterator[Kubelet]:
    """The one node of the session, cordoned: it is `kubelet` that lets a test have it."""
    from real.kubelet import running_kubelet

    with running_kubelet(control_plane) as kubelet:
        kubelet.cordon()
        yield kubelet


@pytest.fixture
def kubelet(node: Kubelet) -> Iterator[Kubelet]:
    """The node, which runs the pods of all namespaces as processes, for as long as a test asks for it.

    Tests that do not ask for it count on pods that never run, whatever ran before them in the same session.
    """
    node.uncordon()
    yield node
    node.cordon()


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A fresh namespace; deleted, with all that is in it, after the test."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    control_plane.create_namespace(name)
    yield name
    control_plane.admin.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def kube_cluster(control_plane: ControlPlane) -> Iterator[KubeCluster]:
    """The product's client, as the operator's service account, less what an old server does not know."""
    from real.filtered import filtered

    cluster = filtered(control_plane.version).from_kubeconfig(path=control_plane.operator_kubeconfig())
    yield cluster
    cluster.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests marked `cel` where the server is too old, and keep the reason for the summary."""
    marked = [item for item in items if item.get_closest_marker("cel")]
    if not marked:
        return
    try:
        binaries = find_binaries()
    except MissingBinaries:
        return  # they fail in their fixture, with the sentence that says what to install
    version = binaries.version()
    if version < CEL_SINCE:
        config.stash[_left_out] = _reason(len(marked), binaries, version)
        config.hook.pytest_deselected(items=marked)
        items[:] = [item for item in items if item not in marked]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was left out, and why."""
    if reason := config.stash.get(_left_out, ""):
        terminalreporter.write_line(reason, yellow=True)


def _reason(count: int, binaries: Binaries, version: tuple[int, int, int]) -> str:
    said = ".".join(map(str, version))
    return (
        f"{count} tests marked cel were left out: they need Kubernetes >= 1.29, and {binaries.apiserver} is {said}; "
        "they run where KUBEBUILDER_ASSETS names a newer server"
    )
