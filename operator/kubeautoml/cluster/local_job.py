"""What the Job controller does for one batch/v1 Job: keep its pods, count what became of them, say when it is over."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.cluster.base import Change

MAX_BACKOFF_SECONDS = 60.0
"""Longest wait before a failed pod is replaced; a guess that suits a person who watches (Kubernetes: 360)."""


class Surroundings(Protocol):
    """What a controller of the local cluster needs of it. Everything is immediate; nothing waits."""

    def look(self, ref: Ref) -> Manifest | None:
        """The object, or None; not a copy."""
        ...

    def pods_of(self, uid: str) -> list[Manifest]:
        """Pods whose controller has that uid, oldest first."""
        ...

    def create_pod(self, owner: Manifest, labels: dict[str, str]) -> None:
        """A new pod from the owner's template."""
        ...

    def delete_pod(self, pod: Manifest) -> None:
        """Begin to end a pod."""
        ...

    def set_status(self, ref: Ref, status: Manifest) -> None:
        """Write the whole status of an object."""
        ...

    def now(self) -> datetime:
        """The time for stamps."""
        ...

    def seconds(self) -> float:
        """A clock that only goes forward."""
        ...

    def wake_later(self, uid: str, seconds: float) -> None:
        """Call the controller of that object again."""
        ...


class JobController:
    """Keeps one Job. `sync` may be called at any time and any number of times."""

    def __init__(self, cluster: Surroundings, job: Manifest, backoff_seconds: float) -> None:
        self._cluster = cluster
        self._ref = Ref.of(job)
        self._uid: str = job["metadata"]["uid"]
        self._backoff_seconds = backoff_seconds
        self._ended: dict[str, str] = {}
        """Pod uid -> Succeeded, Failed or Ignored; also of pods that are deleted."""
        self._sent_away: set[str] = set()
        """Pods this controller deleted itself, which count as nothing."""
        self._not_before = 0.0
        self._failing: tuple[str, str] | None = None

    def pod_changed(self, change: Change) -> None:
        """Count a pod that ended, or that somebody deleted."""
        pod = change.manifest
        uid, phase = pod["metadata"]["uid"], pod.get("status", {}).get("phase", "Pending")
        is_over = phase in ("Succeeded", "Failed") or change.type == "DELETED"
        if not is_over or uid in self._ended or uid in self._sent_away:
            return
        outcome = "Succeeded" if phase == "Succeeded" else self._failure(pod)
        self._ended[uid] = outcome
        if outcome == "Failed":
            wait = min(self._backoff_seconds * 2 ** (self._count("Failed") - 1), MAX_BACKOFF_SECONDS)
            self._not_before = self._cluster.seconds() + wait

    def sync(self) -> None:
        """Bring pods in line with the spec, and the status in line with the pods."""
        job = self._cluster.look(self._ref)
        if job is None or job["metadata"]["uid"] != self._uid or is_finished(job):
            return
        spec, status = job["spec"], dict(job.get("status", {}))
        if spec.get("suspend"):
            self._send_away(self._alive())
            status.pop("startTime", None)
        else:
            status.setdefault("startTime", _stamp(self._cluster.now()))
            self._check_limits(spec, status["startTime"])
            self._keep_pods(job)
        self._publish(job, status)

    def _check_limits(self, spec: Manifest, start_time: str) -> None:
        limit = spec.get("backoffLimit", 6)
        if self._count("Failed") > limit:
            self._failing = self._failing or ("BackoffLimitExceeded", "Job has reached the specified backoff limit")
        if "activeDeadlineSeconds" in spec:
            began = datetime.fromisoformat(start_time)
            left = spec["activeDeadlineSeconds"] - (self._cluster.now() - began).total_seconds()
            if left <= 0:
                message = "Job was active longer than specified deadline"
                self._failing = self._failing or ("DeadlineExceeded", message)
            else:
                self._cluster.wake_later(self._uid, left)

    def _keep_pods(self, job: Manifest) -> None:
        alive, pods = self._alive(), self._cluster.pods_of(self._uid)
        if self._failing:
            self._send_away(alive)
            return
        want = self._wanted(job["spec"], len(alive))
        if len(alive) > want:
            self._send_away(alive[want:])
        # A pod that is still ending keeps its place: two workers never stand on one slot.
        missing = want - len([p for p in pods if not _has_ended(p)])
        wait = self._not_before - self._cluster.seconds()
        if missing > 0 and wait > 0:
            self._cluster.wake_later(self._uid, wait)
        elif missing > 0:
            for _ in range(missing):
                self._cluster.create_pod(job, self._pod_labels())

    def _wanted(self, spec: Manifest, alive: int) -> int:
        """Pods there should be: without `completions` the first success means that the queue is empty."""
        parallelism: int = spec.get("parallelism", 1)
        if spec.get("completions") is None:
            return min(alive, parallelism) if self._count("Succeeded") else parallelism
        left: int = spec["completions"] - self._count("Succeeded")
        return min(parallelism, max(0, left))

    def _publish(self, job: Manifest, status: Manifest) -> None:
        pods = self._cluster.pods_of(self._uid)
        active = [p for p in pods if not _has_ended(p)]
        ready = [p for p in active if is_ready(p)]
        counts = {
            "active": len([p for p in active if not _is_leaving(p)]),
            "terminating": len([p for p in active if _is_leaving(p)]),
            "ready": len(ready),
            "succeeded": self._count("Succeeded"),
            "failed": self._count("Failed"),
        }
        kept = {k: v for k, v in status.items() if k in ("startTime", "conditions", "completionTime")}
        new = {**kept, **{k: v for k, v in counts.items() if v}}
        condition = self._end(job["spec"], len(active)) or self._suspension(job)
        if condition:
            stamp = _stamp(self._cluster.now())
            others = [c for c in status.get("conditions", []) if c["type"] != condition["type"]]
            new["conditions"] = [*others, {**condition, "lastProbeTime": stamp, "lastTransitionTime": stamp}]
            if condition["type"] == "Complete":
                new["completionTime"] = stamp
        self._cluster.set_status(self._ref, new)

    def _end(self, spec: Manifest, active: int) -> Manifest | None:
        """The condition that ends the Job, once no process of it is left."""
        if active:
            return None
        if self._failing:
            reason, message = self._failing
            return {"type": "Failed", "status": "True", "reason": reason, "message": message}
        succeeded = self._count("Succeeded")
        needed = spec["completions"] if spec.get("completions") is not None else 1
        return {"type": "Complete", "status": "True"} if succeeded >= needed else None

    def _suspension(self, job: Manifest) -> Manifest | None:
        """The Suspended condition, if it must change."""
        wanted = "True" if job["spec"].get("suspend") else "False"
        now = next((c for c in job.get("status", {}).get("conditions", []) if c["type"] == "Suspended"), None)
        if (now is None and wanted == "False") or (now is not None and now["status"] == wanted):
            return None
        return {"type": "Suspended", "status": wanted, "reason": "JobSuspended" if wanted == "True" else "JobResumed"}

    def _failure(self, pod: Manifest) -> str:
        """Failed or Ignored, as the first rule of podFailurePolicy that fits says."""
        job = self._cluster.look(self._ref)
        rules = job["spec"].get("podFailurePolicy", {}).get("rules", []) if job else []
        rule = next((r for r in rules if _fits(r, pod)), None)
        if rule is None or rule["action"] == "Count":
            return "Failed"
        if rule["action"] == "Ignore":
            return "Ignored"
        self._failing = ("PodFailurePolicy", f"Pod {pod['metadata']['name']} ended with exit code {exit_code(pod)}")
        return "Failed"

    def _alive(self) -> list[Manifest]:
        """Pods at work, oldest first."""
        return [p for p in self._cluster.pods_of(self._uid) if not _has_ended(p) and not _is_leaving(p)]

    def _send_away(self, pods: list[Manifest]) -> None:
        for pod in pods:
            self._sent_away.add(pod["metadata"]["uid"])
            self._cluster.delete_pod(pod)

    def _count(self, outcome: str) -> int:
        return sum(1 for o in self._ended.values() if o == outcome)

    def _pod_labels(self) -> dict[str, str]:
        return {
            "batch.kubernetes.io/controller-uid": self._uid,
            "batch.kubernetes.io/job-name": self._ref.name,
            "controller-uid": self._uid,
            "job-name": self._ref.name,
        }


def is_finished(job: Manifest) -> bool:
    """Whether a Job is Complete or Failed."""
    conditions = job.get("status", {}).get("conditions", [])
    return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions)


def exit_code(pod: Manifest) -> int | None:
    """Exit code of a pod's container, once it has ended."""
    statuses = pod.get("status", {}).get("containerStatuses", [])
    code: int | None = statuses[0]["state"].get("terminated", {}).get("exitCode") if statuses else None
    return code


def _fits(rule: Manifest, pod: Manifest) -> bool:
    """Whether a rule of a podFailurePolicy matches; only exit codes, since nothing disrupts pods here."""
    codes = rule.get("onExitCodes")
    code = exit_code(pod)
    if not codes or code is None:
        return False
    return bool((code in codes["values"]) == (codes["operator"] == "In"))


def _has_ended(pod: Manifest) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _is_leaving(pod: Manifest) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def is_ready(pod: Manifest) -> bool:
    """Whether a pod answers its readiness probe."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))


def _stamp(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
