"""The two Jobs of an install, on a real API server with no more rights than they are given: certificate and definitions."""

from __future__ import annotations

import base64
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kubeautoml.api.crd import make_crds
from kubeautoml.api.definitions import ANNOTATION_SCHEMA, ANNOTATION_VERSION
from kubeautoml.api.errors import ClusterError
from kubeautoml.api.rights import (
    CERTIFICATE_ACCOUNT,
    DEFINITIONS_ACCOUNT,
    STUDY_TLS_SECRET,
    setup_objects,
)
from kubeautoml.cli.certificate import keep_certificate
from kubeautoml.cli.crds import apply_crds
from kubeautoml.cluster.connection import Connection
from real.controlplane import ControlPlane, collection_of
from real.filtered import filtered

pytestmark = pytest.mark.controlplane

HOME = "setup-home"
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def plane(bare_plane: ControlPlane) -> ControlPlane:
    """With the accounts of the two Jobs."""
    bare_plane.create_namespace(HOME)
    for manifest in setup_objects(HOME):
        bare_plane.admin.ensure(collection_of(manifest), manifest)
    return bare_plane


def kubeconfig(plane: ControlPlane, account: str) -> Path:
    return plane.kubeconfig_for(account, plane.token(HOME, account), HOME)


def secret(plane: ControlPlane) -> dict[str, bytes]:
    found = plane.admin.get(f"/api/v1/namespaces/{HOME}/secrets/{STUDY_TLS_SECRET}")
    return {key: base64.b64decode(value) for key, value in found["data"].items()}


def test_a_certificate_is_made_once_kept_and_renewed_in_time(plane: ControlPlane) -> None:
    """Three installs or upgrades, the last of them nine years later; by an account that can read no other secret."""
    connection = Connection.from_kubeconfig(kubeconfig(plane, CERTIFICATE_ACCOUNT))

    def run(now: datetime) -> str:
        return keep_certificate(connection, HOME, STUDY_TLS_SECRET, "kubeautoml-study", now)

    made = run(NOW)
    first = secret(plane)
    kept = run(NOW + timedelta(days=30))
    assert secret(plane) == first
    renewed = run(NOW + timedelta(days=9.5 * 365))

    name = f"kubeautoml-study.{HOME}.svc"
    assert made == f"secret {HOME}/{STUDY_TLS_SECRET} was made, with a certificate for {name}"
    assert kept == f"secret {HOME}/{STUDY_TLS_SECRET} is kept: its certificate is good for {name}"
    assert "has a new certificate" in renewed and "since it ends on" in renewed
    assert set(first) == {"tls.crt", "tls.key", "ca.crt"} and secret(plane)["tls.key"] != first["tls.key"]
    with pytest.raises(ClusterError, match=r'cannot get resource "secrets".*studyServer.tls.existingSecret'):
        keep_certificate(connection, HOME, "another", "kubeautoml-study", NOW)


@pytest.mark.anyio
async def test_definitions_are_created_updated_and_never_set_back(
    plane: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each time it says what it did with each; an older one is replaced as a whole, a newer one is left alone."""
    cluster = filtered(plane.version).from_kubeconfig(kubeconfig(plane, DEFINITIONS_ACCOUNT))
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/automljobs.kubeautoml.dev"

    async def apply() -> list[str]:
        await apply_crds(cluster)
        return [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()]

    def mark(version: str) -> None:
        older = deepcopy(plane.admin.get(path))
        schema = older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        schema["foreign"] = {"type": "string"}
        marks = {ANNOTATION_VERSION: version, ANNOTATION_SCHEMA: "another"}
        plane.admin.patch(path, {"metadata": {"annotations": marks}, "spec": {"versions": older["spec"]["versions"]}})

    def has_foreign() -> bool:
        schema = plane.admin.get(path)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        return "foreign" in schema["properties"]["spec"]["properties"]

    assert await apply() == ["created"] * 3
    assert await apply() == ["up to date"] * 3
    mark("0.0.1")
    assert has_foreign()
    assert await apply() == ["updated", "up to date", "up to date"]
    assert not has_foreign()
    own = make_crds()[0]["metadata"]["annotations"]
    assert plane.admin.get(path)["metadata"]["annotations"].items() >= own.items()
    mark("99.0.0")
    assert await apply() == ["left alone, it is newer than this version", "up to date", "up to date"]
    assert has_foreign()
    cluster.close()
