"""examples/install as a platform team applies it: taken by a real API server, with flags and settings that exist."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubeautoml.api.profile import AutoMLProfile
from kubeautoml.api.rights import OPERATOR_ACCOUNT, OPERATOR_NAMESPACE, STUDY_ACCOUNT
from kubeautoml.controller.settings import OperatorEnv, OperatorSettings
from kubeautoml.study.server import _parser
from real.controlplane import ControlPlane

INSTALL = Path(__file__).resolve().parents[2] / "examples" / "install"


def objects(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((INSTALL / name).read_text()))


def container(name: str) -> dict[str, Any]:
    """The only container of the only Deployment in a file."""
    [deployment] = [m for m in objects(name) if m["kind"] == "Deployment"]
    [found] = deployment["spec"]["template"]["spec"]["containers"]
    return dict(found)


def account(name: str) -> str:
    [deployment] = [m for m in objects(name) if m["kind"] == "Deployment"]
    return str(deployment["spec"]["template"]["spec"]["serviceAccountName"])


def test_the_operator_starts_with_these_settings() -> None:
    """Every variable is one that the operator reads, and together they are enough."""
    given = {e["name"]: e.get("value", "") for e in container("operator.yaml")["env"]}

    assert set(given) <= {e.value for e in OperatorEnv}
    settings = OperatorSettings.from_env(given)
    assert settings.study_url_for(None) == "grpcs://kubeautoml-study.kubeautoml-system.svc:13000"
    assert account("operator.yaml") == OPERATOR_ACCOUNT


def test_the_study_server_starts_with_these_flags() -> None:
    """And lets the operator's account touch every study."""
    verb, *flags = container("study-server.yaml")["args"]

    parsed = _parser().parse_args(flags)

    assert verb == "study-server"
    assert parsed.operator_account == [f"system:serviceaccount:{OPERATOR_NAMESPACE}:{OPERATOR_ACCOUNT}"]
    assert account("study-server.yaml") == STUDY_ACCOUNT


def test_the_profile_is_one() -> None:
    [profile] = objects("profile.yaml")
    assert AutoMLProfile.model_validate(profile).spec.limits.max_parallelism == 16


@pytest.mark.controlplane
def test_a_real_server_takes_all_of_it_without_a_warning(control_plane: ControlPlane) -> None:
    """As the README says, but for storing it; restricted Pod Security where the server has it."""
    restricted = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}
    control_plane.admin.ensure("/api/v1/namespaces", {"metadata": {"name": OPERATOR_NAMESPACE}})
    control_plane.admin.patch(f"/api/v1/namespaces/{OPERATOR_NAMESPACE}", {"metadata": {"labels": restricted}})

    command = [
        "kubectl",
        "--kubeconfig",
        str(control_plane.kubeconfig),
        "apply",
        "--dry-run=server",
        "-f",
        str(INSTALL),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("(server dry run)") == 4
