"""The contract suite lives in a plain module, so pytest must be told to explain its asserts; and a cluster of this machine's processes."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from kubeautoml.cluster.kube import KubeCluster
from kubeautoml.cluster.local import LocalCluster
from real.controlplane import ADMIN_TOKEN, ControlPlane
from real.filtered import filtered
from real.proxy import FaultyProxy, Tls, faulty_proxy

pytest.register_assert_rewrite("cluster.behind_proxy", "cluster.contract", "cluster.local_factories")


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(tmp_path, backoff_seconds=0.05, max_grace_seconds=2) as cluster:
        yield cluster


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[FaultyProxy]:
    """Between us and the API server, with its own certificate."""
    port = urlsplit(control_plane.server).port
    assert port is not None
    tls = Tls(control_plane.ca_file, control_plane.ca_file.with_suffix(".key"))
    with faulty_proxy(port, http=True, tls=tls) as running:
        yield running


@pytest.fixture
def kubeconfig(control_plane: ControlPlane, proxy: FaultyProxy, tmp_path: Path) -> Path:
    """The admin's, through the proxy; its token is in a file beside it."""
    settings = json.loads(control_plane.kubeconfig.read_text())
    settings["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{proxy.port}"
    settings["users"][0]["user"] = {"tokenFile": str(tmp_path / "token")}
    (tmp_path / "token").write_text(ADMIN_TOKEN)
    (tmp_path / "kubeconfig").write_text(json.dumps(settings))
    return tmp_path / "kubeconfig"


@pytest.fixture
def proxied(control_plane: ControlPlane, kubeconfig: Path) -> Iterator[KubeCluster]:
    """The client behind the proxy."""
    opened = filtered(control_plane.version).from_kubeconfig(path=kubeconfig)
    yield opened
    opened.close()


@pytest.fixture
def beside(control_plane: ControlPlane) -> Iterator[KubeCluster]:
    """Somebody else, whose connection is fine."""
    opened = filtered(control_plane.version).from_kubeconfig(path=control_plane.kubeconfig)
    yield opened
    opened.close()
