"""Manifests of Git on a real API server: applied again and again, by several managers, compared, pruned."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gitops.team import NOWHERE, Team, eventually, make_churn
from kubeautoml.api.names import FIELD_MANAGER, Component
from kubeautoml.api.objects import Manifest
from real.controlplane import ControlPlane

pytestmark = pytest.mark.controlplane

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES, DOCS = ROOT / "examples", ROOT / "docs" / "gitops"
TIMES, AT_ONCE = 100, 25


def uids(team: Team, name: str) -> dict[str, list[str]]:
    """All that the operator and the Job controller have made for the job."""
    kinds = ("jobs", "pods")
    return {kind: sorted(o["metadata"]["uid"] for o in team.objects(name, kind)) for kind in kinds}


def shuffled(value: Any, rng: random.Random) -> Any:
    """The same with the members of every object in another order."""
    if isinstance(value, dict):
        names = list(value)
        rng.shuffle(names)
        return {name: shuffled(value[name], rng) for name in names}
    return [shuffled(v, rng) for v in value] if isinstance(value, list) else value


def missing(wanted: Any, found: Any, path: str = "") -> list[str]:
    """Where an object lacks what a manifest says, or says it otherwise."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [m for k, v in wanted.items() for m in missing(v, found.get(k), f"{path}.{k}")]
    return [] if wanted == found else [f"{path}: {wanted!r} is {found!r}"]


def published_minutes(before: Manifest, after: Manifest) -> int:
    """Status updates due to time alone, one a minute: none, unless the machine is very busy."""
    first, last = (job["status"]["budgetUsed"]["durationSeconds"] for job in (before, after))
    return math.ceil((last - first) / 60)


def without_time(job: Manifest) -> Manifest:
    """Less what a status update due to time alone changes."""
    metadata = {k: v for k, v in job["metadata"].items() if k not in ("resourceVersion", "managedFields")}
    used = {**job["status"]["budgetUsed"], "durationSeconds": 0}
    return {**job, "metadata": metadata, "status": {**job["status"], "budgetUsed": used}}


def apply_by_argo(team: Team, manifest: Manifest) -> None:
    """Client-side apply, a file with many copies at a time."""
    for _ in range(TIMES // AT_ONCE):
        said = team.apply(*[manifest] * AT_ONCE)
        assert said.count("unchanged") == AT_ONCE, said


def apply_by_flux(team: Team, manifest: Manifest) -> None:
    """Server-side apply, the fields in another order each time."""
    rng = random.Random(0)
    for _ in range(TIMES // AT_ONCE):
        team.apply(*[shuffled(manifest, rng) for _ in range(AT_ONCE)], manager="kustomize-controller")


def put_by_api(team: Team, manifest: Manifest) -> None:
    """Whole objects, read and written back with the manifest's fields in another order."""
    rng = random.Random(0)
    for _ in range(TIMES):
        live = team.job(manifest["metadata"]["name"])
        team.plane.admin._json(
            "PUT",
            team.path(manifest["metadata"]["name"]),
            shuffled({**live, **manifest, "metadata": live["metadata"]}, rng),
        )


@pytest.mark.parametrize(
    ("name", "manager", "again"),
    [("argo", "", apply_by_argo), ("flux", "kustomize-controller", apply_by_flux), ("api", "", put_by_api)],
)
def test_a_hundred_applies_change_nothing(team: Team, name: str, manager: str, again: Any) -> None:
    """No generation, no pod, no write of the operator, not even a resourceVersion, while the operator looks every second."""
    manifest = make_churn(name, serving={"replicas": 1, **NOWHERE})
    team.apply(manifest, manager=manager)
    eventually(lambda: team.pods(name, Component.WORKER), "a worker's pod is made")
    team.settled(name)
    if again is put_by_api:
        put_by_api(team, manifest)
    before, made, writes, passes = team.job(name), uids(team, name), team.writes(), team.passes()

    again(team, manifest)
    eventually(lambda: team.passes() >= passes + 2, "the operator looks again")

    after = team.job(name)
    minutes = published_minutes(before, after)
    assert after == before or (minutes and without_time(after) == without_time(before))
    assert after["metadata"]["generation"] == 1
    assert uids(team, name) == made and len(made["jobs"]) == 1
    assert team.writes() - writes <= minutes


PLACED: dict[str, Any] = {
    "placement": {
        "nodeSelector": {"pool": "nowhere"},
        "tolerations": [{"key": "ml", "value": "yes"}],
        "topologySpreadConstraints": [{"topologyKey": "zone"}],
    }
}


@pytest.fixture
def profile(team: Team) -> Iterator[Manifest]:
    """A profile as it lies in Git."""
    kind = {"apiVersion": "kubeautoml.dev/v1alpha1", "kind": "AutoMLProfile"}
    yield {**kind, "metadata": {"name": team.namespace}, "spec": {"limits": {"maxParallelism": 8}, **PLACED}}
    team.plane.admin.delete(f"/apis/kubeautoml.dev/v1alpha1/automlprofiles/{team.namespace}")


@pytest.mark.parametrize("manager", ["", "kustomize-controller"])
def test_git_sees_no_difference(team: Team, profile: Manifest, manager: str) -> None:
    """Examples, lists, a profile: every field that was written is as written, beside defaults and a status; no diff."""
    examples = [yaml.safe_load(file.read_text()) for file in sorted(EXAMPLES.glob("*.yaml"))]
    jobs = [*[m for m in examples if m["kind"] == "AutoMLJob"], make_churn("placed", workers=PLACED)]
    assert len(jobs) > 4
    team.apply(profile, *jobs, manager=manager)
    for name in [m["metadata"]["name"] for m in jobs]:
        eventually(lambda name=name: team.condition(name, "Accepted") == "True SpecValid", f"{name} is accepted")  # type: ignore[misc]

    for manifest in jobs:
        assert missing(manifest, team.job(manifest["metadata"]["name"])) == []
    stored = team.plane.admin.get(f"/apis/kubeautoml.dev/v1alpha1/automlprofiles/{team.namespace}")
    assert missing(profile, stored) == []
    server_side = ("--server-side", f"--field-manager={manager}") if manager else ()
    assert team.kubectl("diff", *server_side, "-f", "-", manifests=[profile, *jobs]) == ""
    if not manager:
        assert team.apply(profile, *jobs).count("unchanged") == 1 + len(jobs)


def test_a_job_that_nobody_has_looked_at_says_so(control_plane: ControlPlane, namespace: str) -> None:
    """Where no operator runs, the API server itself gives it the status that kstatus takes for being in progress."""
    path = f"/apis/kubeautoml.dev/v1alpha1/namespaces/{namespace}/automljobs"
    control_plane.admin.post(path, make_churn("new"))

    assert control_plane.admin.get(f"{path}/new")["status"] == {"observedGeneration": -1}


def test_the_documented_command_gives_argo_the_scripts(team: Team) -> None:
    """kubectl patch merges them into a ConfigMap that holds other things, too."""
    scripts = yaml.safe_load((DOCS / "argocd" / "argocd-cm.yaml").read_text())["data"]
    configs = f"/api/v1/namespaces/{team.namespace}/configmaps"
    team.plane.admin.post(configs, {"metadata": {"name": "argocd-cm"}, "data": {"url": "https://argocd.example.com"}})
    [command] = re.findall(r"`(kubectl patch configmap argocd-cm [^`]+)`", (DOCS / "README.md").read_text())
    _, *words = [w for w in command.split() if w not in ("-n", "argocd")]
    file = ROOT / words.pop()

    patch = file.read_text().replace("namespace: argocd", f"namespace: {team.namespace}")
    team.kubectl(*words[:-1], "--patch", patch)

    found = team.plane.admin.get(f"{configs}/argocd-cm")["data"]
    assert found == {"url": "https://argocd.example.com", **scripts}


def owned_by(job: Manifest, manager: str) -> list[Any]:
    return [m["fieldsV1"] for m in job["metadata"]["managedFields"] if m["manager"] == manager]


def test_git_an_autoscaler_and_a_person_share_a_job(team: Team) -> None:
    """Each owns its fields by server-side apply; nobody is refused, nothing goes back and forth, the operator owns a status."""
    name = "shared"
    git = make_churn(name)
    part = {k: git[k] for k in ("apiVersion", "kind", "metadata")}
    team.apply(git, manager="kustomize-controller")
    [worker] = eventually(lambda: team.objects(name, "jobs", Component.WORKER), "the workers' Job")

    team.apply({**part, "spec": {"workers": {"parallelism": 3}}}, manager="autoscaler")
    team.apply(git, manager="kustomize-controller")
    eventually(lambda: len(team.pods(name, Component.WORKER)) == 3, "three workers")
    [resized] = team.objects(name, "jobs", Component.WORKER)
    assert resized["metadata"]["uid"] == worker["metadata"]["uid"]

    team.apply({**part, "spec": {"suspend": True}}, manager="somebody")
    team.apply(git, manager="kustomize-controller")
    eventually(lambda: not team.pods(name, Component.WORKER), "no worker is left")
    eventually(lambda: team.condition(name, "Admitted") == "False Suspended", "it is suspended")
    team.settled(name)
    generation, writes = team.job(name)["metadata"]["generation"], team.writes()
    for _ in range(5):
        team.apply(git, manager="kustomize-controller")
        team.apply({**part, "spec": {"workers": {"parallelism": 3}}}, manager="autoscaler")
    team.look(name)

    job = team.job(name)
    assert (job["spec"]["suspend"], job["spec"]["workers"]["parallelism"]) == (True, 3)
    assert (job["metadata"]["generation"], team.writes()) == (generation, writes) == (3, writes)
    assert [set(fields) for fields in owned_by(job, FIELD_MANAGER)] == [{"f:status"}]
    assert owned_by(job, "somebody") == [{"f:spec": {"f:suspend": {}}}]
    assert owned_by(job, "autoscaler") == [{"f:spec": {"f:workers": {"f:parallelism": {}}}}]
    assert "f:suspend" not in owned_by(job, "kustomize-controller")[0]["f:spec"]

    team.apply({**part, "spec": {"suspend": False}}, manager="somebody")
    eventually(lambda: len(team.pods(name, Component.WORKER)) == 3, "three workers again")


def test_pruning_waits_for_the_children_and_makes_none_anew(team: Team) -> None:
    """As Argo CD prunes, in the foreground: the job goes last, and stays gone with its batch Job and its pods."""
    name = "pruned"
    team.apply(make_churn(name))
    eventually(lambda: team.pods(name, Component.WORKER), "a worker's pod is made")

    team.kubectl("delete", "automljob", name, "--cascade=foreground", "--timeout=90s")
    left = {kind: team.objects(name, kind) for kind in ("jobs", "pods")}
    passes = team.passes()
    team.apply(make_churn("another"))
    eventually(lambda: team.passes() >= passes + 3, "the operator works on")

    assert left == {"jobs": [], "pods": []}
    assert {kind: team.objects(name, kind) for kind in left} == left
    assert team.plane.admin.find(team.path(name)) is None
