"""A cluster of its own for installs: no CRDs, no accounts, one node whose `kubeautoml` is this checkout."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

from real.controlplane import ControlPlane, running_control_plane
from real.kubelet import Kubelet, running_kubelet
from real.services import resolving_services
from real.strip import strip

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "kubeautoml"
RELEASE, HOME = "automl", "kubeautoml-system"


@dataclass(frozen=True)
class Cluster:
    """A fresh cluster, its node, and Helm."""

    plane: ControlPlane
    node: Kubelet
    helm: helm.Config

    def get(self, path: str) -> dict[str, Any]:
        return self.plane.admin.get(path)

    def deployment(self, name: str) -> dict[str, Any]:
        return self.get(f"/apis/apps/v1/namespaces/{HOME}/deployments/{name}")

    def pods(self, app: str) -> list[dict[str, Any]]:
        return self.plane.admin.items(f"/api/v1/namespaces/{HOME}/pods?labelSelector=app.kubernetes.io/name={app}")

    def logs(self) -> str:
        """What all pods of the install have said, for the message of a failing test."""
        return self.node.all_logs(HOME)[-8000:]


@pytest.fixture(scope="session")
def bare_plane() -> Iterator[ControlPlane]:
    """An API server without our definitions, accounts and roles."""
    with running_control_plane(None, with_operator_account=False) as plane:
        yield plane


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with (
        running_control_plane(None, with_operator_account=False) as plane,
        running_kubelet(plane) as node,
        resolving_services(node),
    ):
        node.programs = Path(__file__).parent / "image"
        node.environment |= {"TEST_KUBERNETES_VERSION": ".".join(map(str, plane.version))}
        for name in ("default", HOME):
            plane.admin.ensure("/api/v1/namespaces", {"metadata": {"name": name}})
        with helm.Config(kubeconfig_path=plane.kubeconfig, namespace=HOME) as config:
            yield Cluster(plane, node, config)


@pytest.fixture(scope="module")
def chart(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart; on a server that is older than the chart asks for, one that does not say so, less what that does not know."""
    copy = tmp_path_factory.mktemp("chart") / "kubeautoml"
    shutil.copytree(CHART, copy)
    if not cluster.plane.has_cel:
        about = yaml.safe_load((copy / "Chart.yaml").read_text())
        del about["kubeVersion"]
        (copy / "Chart.yaml").write_text(yaml.safe_dump(about))
        for file in (copy / "crds").iterdir():
            file.write_text(yaml.safe_dump(strip(yaml.safe_load(file.read_text()), cluster.plane.version)))
    return copy


@pytest.fixture(scope="module")
def values(cluster: Cluster) -> dict[str, Any]:
    """Nothing, but on a server without policy/v1."""
    no_budget = {"podDisruptionBudget": {"enabled": False}}
    return {} if cluster.plane.has_cel else {"operator": no_budget, "studyServer": no_budget}
