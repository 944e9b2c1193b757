"""What the operator makes must never look as if Git had made it: else a GitOps tool would prune it."""

from __future__ import annotations

import pytest

from gitops.states import STATES, stored
from kubeautoml.api.objects import Manifest
from plan.carry import Stage

LABELS = {
    "app.kubernetes.io/instance": "our-application",
    "argocd.argoproj.io/instance": "our-application",
    "kustomize.toolkit.fluxcd.io/name": "our-kustomization",
    "kustomize.toolkit.fluxcd.io/namespace": "flux-system",
    "helm.toolkit.fluxcd.io/name": "our-release",
}
ANNOTATIONS = {
    "argocd.argoproj.io/tracking-id": "our-application:kubeautoml.dev/AutoMLJob:team-a/churn",
    "argocd.argoproj.io/sync-options": "Prune=true",
    "kubectl.kubernetes.io/last-applied-configuration": "{}",
    "meta.helm.sh/release-name": "our-release",
}


def marks(manifest: Manifest) -> set[str]:
    """Labels and annotations, of the object and of the pods that it makes, as name=value."""
    metadata = [manifest["metadata"], manifest.get("spec", {}).get("template", {}).get("metadata", {})]
    return {f"{k}={v}" for m in metadata for kind in ("labels", "annotations") for k, v in m.get(kind, {}).items()}


def test_no_child_carries_the_marks_of_a_tool() -> None:
    """What Argo CD, Flux, Helm and kubectl write on a job stays on the job."""
    begun = Stage()
    meta = begun.job.metadata.model_copy(update={"labels": LABELS, "annotations": ANNOTATIONS})
    stage = stored(serving={"replicas": 1})
    stage.job = begun.job.model_copy(update={"metadata": meta, "spec": stage.job.spec, "status": stage.job.status})
    kinds = set(stage.kinds())
    stage.children.clear()
    stage.settle()
    begun.job = begun.job.model_copy(update={"metadata": meta})
    begun.settle()

    children = [*begun.children.values(), *stage.children.values()]
    assert {m["kind"] for m in children} >= {"Job", "Deployment", "Service"} <= {k.split()[0] for k in kinds}
    theirs = {f"{k}={v}" for k, v in (LABELS | ANNOTATIONS).items()}
    assert [m["metadata"]["name"] for m in children if marks(m) & theirs] == []


@pytest.mark.parametrize("state", STATES)
def test_what_has_no_owner_is_not_tracked_by_argo(state: str) -> None:
    """Argo CD before 3.0 takes an object for its own by app.kubernetes.io/instance, and leaves out only those with an owner."""
    free = [m for m in STATES[state]().children.values() if not m["metadata"].get("ownerReferences")]

    assert {m["kind"] for m in free} <= {"AutoMLModel"}
    assert [m for m in free if "app.kubernetes.io/instance" in m["metadata"]["labels"]] == []
