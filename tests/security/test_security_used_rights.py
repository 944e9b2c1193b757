"""The operator's rights compared with what it does: nothing that it needs is missing, nothing is given that it never uses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from controller.life import make_churn
from factories import UID
from fuzz.fuzz_operator import JOB, Operator
from fuzz.fuzz_specs import RICH
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.api.rights import OPERATOR, OPERATOR_ACCOUNT, OPERATOR_CLUSTER, Right, role_objects
from kubeautoml.cluster.cached import CHILD_KINDS, PROFILE
from kubeautoml.cluster.resources import RESOURCES
from real.controlplane import ControlPlane
from real.operator_process import running_operator

Use = tuple[str, str]
"""(verb, resource) as RBAC spells them, such as ("patch", "automljobs/status")."""

VERBS: dict[str, tuple[str, ...]] = {
    "get": ("get",),
    "list": ("list",),
    "apply": ("patch", "create"),
    "delete": ("delete",),
    "emit": ("create", "get", "patch"),
}
"""RBAC verbs of each call of the cluster. Server-side apply is a patch, which needs create where there is nothing yet."""

WATCHED = (*CHILD_KINDS, PROFILE, "AutoMLJob")
"""Lists and watches of the cache, and of kopf."""

ASKED_BY_ADMISSION = {("update", "automljobs/finalizers")}
"""Never called: admission (OwnerReferencesPermissionEnforcement) wants it of whoever makes children that block deletion."""


def uses(calls: list[tuple[str, str]]) -> set[Use]:
    """What the API server would have been asked for."""
    found = set()
    for verb, kind in calls:
        resource = RESOURCES[kind].plural
        if verb == "patch_status":
            found.add(("patch", f"{resource}/status"))
        else:
            found |= {(v, resource) for v in VERBS.get(verb, ())}
    return found | {(verb, RESOURCES[kind].plural) for kind in WATCHED for verb in ("list", "watch")}


def granted(*rights: tuple[Right, ...]) -> set[Use]:
    return {(v, resource) for group in rights for right in group for resource in right.resources for v in right.verbs}


async def whole_life() -> list[tuple[str, str]]:
    """A job with everything: searched, finalized, served, scaled, edited, suspended, expired; and one whose name comes again."""
    operator = Operator()
    metadata = {"name": "churn", "namespace": "team-a", "uid": UID}
    job: dict[str, Any] = {"apiVersion": "kubeautoml.dev/v1alpha1", "kind": "AutoMLJob", "metadata": metadata}
    cluster = operator.cluster

    async def edit(spec: dict[str, Any]) -> None:
        await cluster.put({**job, "spec": spec})
        await operator.settle()

    served = {**RICH, "serving": {**RICH["serving"], "gate": {"metric": "RocAuc", "min": "0.1"}}}
    await edit({**served, "suspend": True})
    await edit(served)
    await edit({**served, "suspend": True})
    await edit(served)
    await operator.live()
    plain = {"replicas": 1}
    await edit({**served, "serving": plain})
    await edit({k: v for k, v in served.items() if k != "serving"})
    await edit(served)
    no_policies = {"metadata": {"name": "default"}, "spec": {"network": {"policies": False}}}
    await cluster.put({"apiVersion": "kubeautoml.dev/v1alpha1", "kind": PROFILE, **no_policies})
    await operator.settle()
    operator.now += timedelta(days=30)
    await operator.settle()
    await cluster.delete(JOB)
    cluster.calls.remove(("delete", "AutoMLJob"))
    await operator.pass_()
    return cluster.calls


def test_the_operator_has_the_rights_that_it_uses_and_no_others() -> None:
    """Compared both ways over a life in which everything happens that the planner can order."""
    used = uses(asyncio.run(whole_life()))

    given = granted(OPERATOR, OPERATOR_CLUSTER)
    assert used - given == set(), "used, but not granted"
    assert given - used - ASKED_BY_ADMISSION == set(), "granted, but never used"


@pytest.mark.controlplane
def test_an_operator_of_two_namespaces_needs_roles_in_them_only(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Real RBAC, and an account that has nothing but what is printed for two namespaces: jobs there get their workers with the
    built-in settings, a job in a third namespace is not touched, and nothing is refused but the look at profiles."""
    teams, third, own = [f"{namespace}-a", f"{namespace}-b"], f"{namespace}-c", f"{namespace}-system"
    for name in (*teams, third, own):
        control_plane.admin.ensure("/api/v1/namespaces", {"metadata": {"name": name}})
    for manifest in role_objects(own, tuple(teams)):
        control_plane.admin.ensure(collection(manifest), manifest)
    token = control_plane.token(own, OPERATOR_ACCOUNT)
    kubeconfig = control_plane.kubeconfig_for(f"{own}-operator", token, own)
    arguments = [a for team in teams for a in ("-n", team)]
    log = tmp_path / "operator.log"
    try:
        with running_operator(control_plane, log, *arguments, lease_namespace=own, kubeconfig=kubeconfig) as operator:
            operator.wait_said("leading")
            for name in (*teams, third):
                churn: Manifest = make_churn()
                churn["metadata"] = {"name": "churn", "namespace": name}
                control_plane.admin.post(RESOURCES["AutoMLJob"].path(name), churn)
            for name in teams:
                wait_until(lambda n=name: has_accepted(control_plane, n), log)  # type: ignore[misc]
                wait_until(lambda n=name: bool(jobs_of(control_plane, n)), log)  # type: ignore[misc]
                ref = Ref("AutoMLJob", name, "churn")
                path = RESOURCES["AutoMLJob"].path(name, ref.name)
                control_plane.admin.patch(path, {"spec": {"suspend": True}})
                wait_until(lambda n=name: not jobs_of(control_plane, n), log)  # type: ignore[misc]
            operator.process.terminate()
            assert operator.process.wait(30) == 0, log.read_text()
        untouched = control_plane.admin.get(RESOURCES["AutoMLJob"].path(third, "churn"))
        assert untouched.get("status", {}).get("conditions", []) == []
        assert jobs_of(control_plane, third) == []
        refused = [line for line in log.read_text().splitlines() if "orbidden" in line]
        assert all("rofile" in line for line in refused), refused
    finally:
        for name in (*teams, third, own):
            control_plane.admin.delete(f"/api/v1/namespaces/{name}")
        for manifest in role_objects(own, tuple(teams)):
            if manifest["kind"].startswith("ClusterRole"):
                control_plane.admin.delete(f"{collection(manifest)}/{manifest['metadata']['name']}")


def collection(manifest: Manifest) -> str:
    namespace = manifest["metadata"].get("namespace")
    prefix = "/api/v1" if manifest["kind"] == "ServiceAccount" else f"/apis/{manifest['apiVersion']}"
    return f"{prefix}{f'/namespaces/{namespace}' if namespace else ''}/{manifest['kind'].lower()}s"


def jobs_of(plane: ControlPlane, namespace: str) -> list[dict[str, Any]]:
    return plane.admin.items(RESOURCES["Job"].path(namespace))


def has_accepted(plane: ControlPlane, namespace: str) -> bool:
    job = plane.admin.get(RESOURCES["AutoMLJob"].path(namespace, "churn"))
    conditions = job.get("status", {}).get("conditions", [])
    return any(c["type"] == "Accepted" and c["status"] == "True" for c in conditions)


def wait_until(holds: Callable[[], bool], log: Path, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
