"""What the Deployment controller does for one Deployment: new pods first, old ones leave once those are ready."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from kubeautoml.api.names import short_hash
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.cluster.base import Change
from kubeautoml.cluster.local_job import Surroundings, is_ready

LABEL_TEMPLATE = "pod-template-hash"


class DeploymentController:
    """Keeps one Deployment; the pods belong to it directly, without a ReplicaSet between."""

    def __init__(self, cluster: Surroundings, deployment: Manifest) -> None:
        self._cluster = cluster
        self._ref = Ref.of(deployment)
        self._uid: str = deployment["metadata"]["uid"]
        self._progress: tuple[str, int] = ("", -1)
        self._progress_at = 0.0

    def pod_changed(self, change: Change) -> None:
        """Nothing to remember: everything is in the pods that are there."""

    def sync(self) -> None:
        """Bring pods in line with the spec, and the status in line with the pods."""
        deployment = self._cluster.look(self._ref)
        if deployment is None or deployment["metadata"]["uid"] != self._uid:
            return
        template = short_hash(json.dumps(deployment["spec"]["template"], sort_keys=True))
        replicas: int = deployment["spec"].get("replicas", 1)
        new, _ = self._pods(template)
        for _ in range(replicas - len(new)):
            self._cluster.create_pod(deployment, {LABEL_TEMPLATE: template})
        for pod in new[replicas:]:
            self._cluster.delete_pod(pod)
        new, old = self._pods(template)
        if sum(is_ready(p) for p in new) >= replicas:
            for pod in old:
                self._cluster.delete_pod(pod)
        self._publish(deployment, template, replicas)

    def _pods(self, template: str) -> tuple[list[Manifest], list[Manifest]]:
        """Pods of the present template, and of earlier ones, without those that are leaving."""
        pods = [p for p in self._cluster.pods_of(self._uid) if "deletionTimestamp" not in p["metadata"]]
        new = [p for p in pods if p["metadata"]["labels"][LABEL_TEMPLATE] == template]
        return new, [p for p in pods if p not in new]

    def _publish(self, deployment: Manifest, template: str, replicas: int) -> None:
        new, old = self._pods(template)
        ready = sum(is_ready(p) for p in (*new, *old))
        updated_ready = sum(is_ready(p) for p in new)
        is_rolled_out = updated_ready >= replicas and not old
        counts = {
            "replicas": len(new) + len(old),
            "updatedReplicas": len(new),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "unavailableReplicas": max(0, replicas - ready),
        }
        conditions = [
            self._condition(deployment, "Available", ready >= replicas, "MinimumReplicasAvailable"),
            self._progressing(deployment, template, updated_ready, is_rolled_out),
        ]
        status = {
            "observedGeneration": deployment["metadata"]["generation"],
            **{k: v for k, v in counts.items() if v},
            "conditions": conditions,
        }
        self._cluster.set_status(self._ref, status)

    def _progressing(self, deployment: Manifest, template: str, ready: int, is_rolled_out: bool) -> Manifest:
        """Progressing: False once nothing got better for progressDeadlineSeconds."""
        if (template, ready) != self._progress:
            self._progress, self._progress_at = (template, ready), self._cluster.seconds()
        if is_rolled_out:
            return self._condition(deployment, "Progressing", True, "NewReplicaSetAvailable")
        left = self._progress_at + deployment["spec"].get("progressDeadlineSeconds", 600) - self._cluster.seconds()
        if left <= 0:
            return self._condition(deployment, "Progressing", False, "ProgressDeadlineExceeded")
        self._cluster.wake_later(self._uid, left)
        return self._condition(deployment, "Progressing", True, "ReplicaSetUpdated")

    def _condition(self, deployment: Manifest, kind: str, is_true: bool, reason: str) -> Manifest:
        status = "True" if is_true else "False"
        conditions = deployment.get("status", {}).get("conditions", [])
        old: Manifest = next((c for c in conditions if c["type"] == kind), {})
        since = old["lastTransitionTime"] if old.get("status") == status else _stamp(self._cluster.now())
        if kind == "Available" and not is_true:
            reason = "MinimumReplicasUnavailable"
        return {"type": kind, "status": status, "reason": reason, "lastTransitionTime": since}


def _stamp(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
