"""An operator before definitions and rights: it says what is missing, lives, and goes on when they come."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kubeautoml.api.definitions import ANNOTATION_SCHEMA, ANNOTATION_VERSION
from kubeautoml.api.rights import DEFINITIONS, OPERATOR_ACCOUNT, role_objects
from real.controlplane import ControlPlane, collection_of, install_crds
from real.operator_process import OperatorProcess, running_operator

pytestmark = pytest.mark.controlplane

ROOT = Path(__file__).resolve().parents[2]
HOME = "recovery-home"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture
def plane(bare_plane: ControlPlane) -> ControlPlane:
    """An empty cluster with an account for the operator that may do nothing yet."""
    bare_plane.admin.ensure("/api/v1/namespaces", {"metadata": {"name": HOME}})
    remove_definitions(bare_plane)
    bare_plane.admin.ensure(
        f"/api/v1/namespaces/{HOME}/serviceaccounts", {"metadata": {"name": OPERATOR_ACCOUNT, "namespace": HOME}}
    )
    return bare_plane


def remove_definitions(plane: ControlPlane) -> None:
    for name in DEFINITIONS:
        plane.admin.delete(f"{CRDS}/{name}")
    wait_until(lambda: not plane.admin.items(CRDS), "the end of the definitions")


def wait_until(holds: Callable[[], bool], what: str, operator: OperatorProcess | None = None) -> None:
    deadline = time.monotonic() + 90
    while not holds():
        words = operator.log.read_text() if operator else ""
        assert time.monotonic() < deadline, f"{what} did not happen\n{words}"
        time.sleep(0.1)


def grant(plane: ControlPlane) -> None:
    for manifest in role_objects(HOME):
        plane.admin.ensure(collection_of(manifest), manifest)


def revoke(plane: ControlPlane) -> None:
    for manifest in role_objects(HOME):
        if "Role" in manifest["kind"]:
            plane.admin.delete(f"{collection_of(manifest)}/{manifest['metadata']['name']}")


def test_what_is_missing_is_said_and_waited_for(plane: ControlPlane, tmp_path: Path) -> None:
    """Rights, definitions, and the age of one, each mended in turn under an operator that is never restarted."""
    token = plane.token(HOME, OPERATOR_ACCOUNT)
    kubeconfig = plane.kubeconfig_for(f"{HOME}-operator", token, HOME)
    log = tmp_path / "operator.log"
    try:
        with running_operator(plane, log, lease_namespace=HOME, kubeconfig=kubeconfig) as operator:

            def says(*words: str) -> bool:
                status, why = operator.ask("/readyz")
                return status == 503 and all(word in why for word in words)

            denied = (
                'cannot list resource "automljobs" in API group "kubeautoml.dev" at the cluster scope',
                "`kubeautoml rbac`",
            )
            wait_until(lambda: says(*denied), "a word on rights", operator)
            grant(plane)
            wait_until(
                lambda: says("automljobs.kubeautoml.dev is missing", "kubeautoml crds --apply"), "on CRDs", operator
            )
            assert operator.ask("/healthz") == (200, "ok\n")
            install_crds(plane, ROOT / "crds")
            wait_until(lambda: operator.ask("/readyz") == (200, "ok\n"), "readiness", operator)
            assert operator.said("leading") or operator.wait_said("leading")
            assert [line["reason"] for line in operator.lines() if line["message"] == "operator waits"] == [
                "Forbidden",
                "DefinitionMissing",
            ]
        name = DEFINITIONS[0]
        older = {ANNOTATION_VERSION: "0.0.1", ANNOTATION_SCHEMA: "another"}
        plane.admin.patch(f"{CRDS}/{name}", {"metadata": {"annotations": older}})
        with running_operator(plane, log, lease_namespace=HOME, kubeconfig=kubeconfig) as operator:
            wait_until(
                lambda: says_of(operator, f"{name} is older than this operator: it is of version 0.0.1"),
                "a word on age",
                operator,
            )
            admin = ["--kubeconfig", str(plane.kubeconfig), "apply", "--server-side", "--force-conflicts", "-f", "-"]
            crds = "---\n".join(stripped(plane, file) for file in sorted((ROOT / "crds").iterdir()))
            subprocess.run(["kubectl", *admin], input=crds, text=True, check=True, capture_output=True, timeout=60)
            wait_until(lambda: operator.ask("/readyz") == (200, "ok\n"), "readiness", operator)
    finally:
        revoke(plane)
        remove_definitions(plane)


def test_one_namespace_without_its_role_is_named_and_the_others_are_served(plane: ControlPlane, tmp_path: Path) -> None:
    """As an installation for some namespaces: ready without it, and it is taken up without a restart."""
    teams = ("recovery-a", "recovery-b")
    for team in teams:
        plane.admin.ensure("/api/v1/namespaces", {"metadata": {"name": team}})
    objects = role_objects(HOME, teams)
    late = [m for m in objects if m["metadata"].get("namespace") == teams[1]]
    token = plane.token(HOME, OPERATOR_ACCOUNT)
    kubeconfig = plane.kubeconfig_for(f"{HOME}-operator", token, HOME)
    install_crds(plane, ROOT / "crds")
    try:
        with running_operator(
            plane,
            tmp_path / "operator.log",
            lease_namespace=HOME,
            kubeconfig=kubeconfig,
            KUBEAUTOML_NAMESPACES=",".join(teams),
        ) as operator:
            wait_until(lambda: operator.metric("kubeautoml_namespace_denied") == 2, "a look at both", operator)
            assert operator.ask("/readyz")[0] == 503
            for manifest in objects:
                if manifest not in late:
                    plane.admin.ensure(collection_of(manifest), manifest)
            left_out = operator.wait_said("namespace left out")
            wait_until(lambda: operator.ask("/readyz") == (200, "ok\n"), "readiness", operator)
            assert operator.metric("kubeautoml_namespace_denied", namespace=teams[1]) == 1
            assert left_out["namespace"] == teams[1] and "`kubeautoml rbac`" in left_out["error"]
            assert 'cannot list resource "automljobs" in API group "kubeautoml.dev"' in left_out["error"]

            for manifest in late:
                plane.admin.ensure(collection_of(manifest), manifest)

            assert operator.wait_said("namespace taken up")["namespace"] == teams[1]
            wait_until(lambda: operator.metric("kubeautoml_namespace_denied") == 0, "the metric", operator)
    finally:
        for manifest in objects:
            if "Role" in manifest["kind"]:
                plane.admin.delete(f"{collection_of(manifest)}/{manifest['metadata']['name']}")
        remove_definitions(plane)


def says_of(operator: OperatorProcess, words: str) -> bool:
    status, why = operator.ask("/readyz")
    return status == 503 and words in why


def stripped(plane: ControlPlane, file: Path) -> str:
    """As the server takes it."""
    import yaml

    from real.strip import strip

    return yaml.safe_dump(strip(yaml.safe_load(file.read_text()), plane.version))
