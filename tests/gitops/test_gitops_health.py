"""What Argo CD, Flux and kstatus make of a job in every state; fixtures are what the planner writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import celpy
import pytest
import yaml
from lupa.lua51 import LuaRuntime

from factories import NOON
from gitops.states import STATES, job_in, model_in
from kubeautoml.api.objects import Manifest
from kubeautoml.plan.model import orphan_condition

DOCS = Path(__file__).resolve().parents[2] / "docs" / "gitops"
FIXTURES = Path(__file__).parent / "fixtures"

# state: what Argo CD, Flux with our expressions, and plain kstatus say
EXPECTED = {
    "new": ("Progressing", "InProgress", "InProgress"),
    "pending": ("Progressing", "InProgress", "InProgress"),
    "queued": ("Suspended", "InProgress", "InProgress"),
    "reading-data": ("Progressing", "InProgress", "InProgress"),
    "searching": ("Progressing", "InProgress", "InProgress"),
    "suspended": ("Suspended", "Current", "InProgress"),
    "suspended-from-the-start": ("Suspended", "Current", "InProgress"),
    "unschedulable": ("Progressing", "InProgress", "InProgress"),
    "image-unavailable": ("Progressing", "InProgress", "InProgress"),
    "secret-missing": ("Progressing", "InProgress", "InProgress"),
    "study-away": ("Progressing", "InProgress", "InProgress"),
    "refused": ("Degraded", "Failed", "Failed"),
    "refused-later": ("Degraded", "Failed", "InProgress"),
    "profile-missing": ("Degraded", "Failed", "Failed"),
    "profile-gone": ("Progressing", "InProgress", "InProgress"),
    "finalizing": ("Progressing", "InProgress", "InProgress"),
    "failed-data": ("Degraded", "Failed", "Failed"),
    "failed-search": ("Degraded", "Failed", "Failed"),
    "failed-workers": ("Degraded", "Failed", "Failed"),
    "failed-trials": ("Degraded", "Failed", "Failed"),
    "failed-finalizer": ("Degraded", "Failed", "Failed"),
    "out-of-time": ("Degraded", "Failed", "Failed"),
    "stored": ("Healthy", "Current", "Current"),
    "gate-not-passed": ("Degraded", "Failed", "Failed"),
    "deploying": ("Progressing", "InProgress", "InProgress"),
    "serving-failed": ("Degraded", "Failed", "Failed"),
    "serving-image-missing": ("Progressing", "InProgress", "InProgress"),
    "ready": ("Healthy", "Current", "Current"),
    "model-removed": ("Healthy", "Current", "Current"),
    "not-seen-since-edited": ("Progressing", "InProgress", "InProgress"),
    "being-deleted": ("Progressing", "InProgress", "Terminating"),
}


def argo_health(kind: str, manifest: Manifest) -> dict[str, str]:
    """What the script says, run as Argo CD runs it: Lua 5.1 with the object in `obj`, and few of its libraries."""
    lua = LuaRuntime(unpack_returned_tuples=True)
    script = (DOCS / "argocd" / "kubeautoml.dev" / kind / "health.lua").read_text()
    for library in ("string", "math", "io", "os", "debug", "coroutine"):
        lua.globals()[library] = None
    lua.globals().obj = lua.table_from(manifest, recursive=True)
    return dict(lua.execute(script))


def flux_status(kind: str, manifest: Manifest) -> str:
    """As Flux does (fluxcd/pkg, runtime/cel/status_evaluator.go): a status of an older generation comes before all expressions,
    and an expression that cannot be evaluated is an error.
    """
    kustomization = yaml.safe_load((DOCS / "flux" / "kustomization.yaml").read_text())
    checks = next(c for c in kustomization["spec"]["healthCheckExprs"] if c["kind"] == kind)
    seen = manifest.get("status", {}).get("observedGeneration")
    if seen is not None and seen != manifest["metadata"]["generation"]:
        return "InProgress"
    for name, status in (("inProgress", "InProgress"), ("failed", "Failed"), ("current", "Current")):
        if name in checks and _is_true(checks[name], manifest):
            return status
    return "InProgress"


def _is_true(expression: str, manifest: Manifest) -> bool:
    environment = celpy.Environment()
    program = environment.program(environment.compile(expression))
    return bool(program.evaluate({k: celpy.json_to_cel(v) for k, v in manifest.items()}))


def kstatus(manifest: Manifest) -> str:
    """The rules of sigs.k8s.io/cli-utils, pkg/kstatus/status, for kinds that it does not know."""
    meta, status = manifest["metadata"], manifest.get("status", {})
    if meta.get("deletionTimestamp"):
        return "Terminating"
    if "observedGeneration" in status and "generation" in meta and status["observedGeneration"] != meta["generation"]:
        return "InProgress"
    conditions = status.get("conditions", [])
    for condition in conditions:
        if (condition["type"], condition["status"]) == ("Reconciling", "True"):
            return "InProgress"
        if (condition["type"], condition["status"]) == ("Stalled", "True"):
            return "Failed"
    ready = next((c["status"] for c in conditions if c["type"] == "Ready"), "True")
    return "Current" if ready == "True" else "InProgress"


def test_every_state_is_judged() -> None:
    assert set(EXPECTED) == set(STATES)


@pytest.mark.parametrize("state", STATES)
def test_argo_shows_the_state(state: str) -> None:
    """Health as in its tree, with the words of the condition that decides."""
    health = argo_health("AutoMLJob", job_in(state))

    assert health["status"] == EXPECTED[state][0]
    assert health["message"]


@pytest.mark.parametrize("state", STATES)
def test_flux_waits_fails_or_goes_on(state: str) -> None:
    """With the expressions of docs/gitops/flux."""
    assert flux_status("AutoMLJob", job_in(state)) == EXPECTED[state][1]


@pytest.mark.parametrize("state", STATES)
def test_kstatus_agrees_by_its_own_rules(state: str) -> None:
    """Whoever waits without expressions (Flux, Helm --wait, kpt) is never told "current" of a job that is not."""
    assert kstatus(job_in(state)) == EXPECTED[state][2]


@pytest.mark.parametrize("state", ["stored", "ready", "deploying", "gate-not-passed", "serving-failed"])
def test_a_model_is_as_healthy_as_its_endpoint(state: str) -> None:
    """The AutoMLModel tells the same as its job's Ready."""
    model = model_in(state)
    assert model is not None

    assert argo_health("AutoMLModel", model)["status"] == EXPECTED[state][0]
    assert flux_status("AutoMLModel", model) == EXPECTED[state][1]


def test_a_model_that_nobody_has_looked_at_is_not_healthy_yet() -> None:
    """It has only the schema's default as its status."""
    model = model_in("stored")
    assert model is not None
    new = {**model, "status": {"observedGeneration": -1}}

    assert argo_health("AutoMLModel", new)["status"] == "Progressing"
    assert flux_status("AutoMLModel", new) == "InProgress"
    assert kstatus(new) == "InProgress"


def test_a_model_without_its_job_is_healthy() -> None:
    """Nothing serves it any more, as was wished; it is stored."""
    model = model_in("ready")
    assert model is not None
    status = orphan_condition(model, NOON)
    assert status is not None
    left = {**model, "status": status.model_dump(mode="json", by_alias=True)}

    health = argo_health("AutoMLModel", left)
    assert health["status"] == "Healthy" and "its job is gone" in health["message"]
    assert (flux_status("AutoMLModel", left), kstatus(left)) == ("Current", "Current")


def test_the_config_map_holds_the_scripts() -> None:
    """What is pasted into Argo CD is what is tested."""
    config = yaml.safe_load((DOCS / "argocd" / "argocd-cm.yaml").read_text())

    scripts = {p.parent.name: p.read_text() for p in (DOCS / "argocd" / "kubeautoml.dev").glob("*/health.lua")}
    assert config["data"] == {f"resource.customizations.health.kubeautoml.dev_{k}": v for k, v in scripts.items()}


@pytest.mark.parametrize("state", STATES)
def test_the_fixtures_are_what_the_planner_writes(state: str) -> None:
    """One file a state, for people and other tools; KUBEAUTOML_ACCEPT_SNAPSHOTS=1 writes them anew."""
    file, text = FIXTURES / f"{state}.yaml", yaml.safe_dump(job_in(state), sort_keys=False, width=140)
    if os.environ.get("KUBEAUTOML_ACCEPT_SNAPSHOTS"):
        file.write_text(text)

    assert file.read_text() == text


def test_no_fixture_is_left_over() -> None:
    found: set[Any] = {p.stem for p in FIXTURES.glob("*.yaml")}
    assert found == set(STATES)
