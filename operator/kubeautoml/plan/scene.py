"""One job and all that was seen of it in one pass, with what several stages derive from it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from kubeautoml.api import effective
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.names import (
    Component,
    finalizer_job_name,
    network_policy_name,
    server_name,
    worker_job_name,
)
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.api.profile import AutoMLProfileSpec
from kubeautoml.api.trials import StudySummary
from kubeautoml.plan.base import Observed, PodSeen, Settings


@dataclass(frozen=True)
class Scene:
    """One job and all that was seen, with what several stages derive from it."""

    job: AutoMLJob
    observed: Observed
    now: datetime
    settings: Settings

    @cached_property
    def profile(self) -> AutoMLProfileSpec:
        return self.observed.profile.spec if self.observed.profile else AutoMLProfileSpec()

    @cached_property
    def study(self) -> StudySummary:
        return self.observed.study or StudySummary()

    @cached_property
    def worker_ref(self) -> Ref:
        meta = self.job.metadata
        return Ref("Job", meta.namespace, worker_job_name(meta.name, meta.uid))

    @cached_property
    def finalizer_ref(self) -> Ref:
        meta = self.job.metadata
        return Ref("Job", meta.namespace, finalizer_job_name(meta.name, meta.uid))

    @cached_property
    def policy_ref(self) -> Ref:
        """The NetworkPolicy of workers and finalizer."""
        meta = self.job.metadata
        return Ref("NetworkPolicy", meta.namespace, network_policy_name(meta.name, meta.uid))

    @cached_property
    def parallelism(self) -> int:
        """Workers that the job asks for."""
        return effective.parallelism(self.job, self.profile)

    @cached_property
    def accelerators(self) -> int:
        """Accelerators of one pod that trains."""
        return effective.accelerators(effective.worker_resources(self.job, self.profile).limits)

    @cached_property
    def server_ref(self) -> Ref:
        return Ref("Deployment", self.job.metadata.namespace, server_name(self.job.metadata.name))

    def pods(self, component: Component) -> list[PodSeen]:
        return [p for p in self.observed.pods if p.component == component]

    @cached_property
    def living_workers(self) -> list[PodSeen]:
        return [p for p in self.pods(Component.WORKER) if p.is_alive]

    @cached_property
    def have_workers_left(self) -> bool:
        """Whether the workers' batch Job is complete: one left with exit code 0, and the others after it."""
        return self.job_condition(self.worker_ref, "Complete") and not self.living_workers

    @cached_property
    def ended_trials(self) -> int:
        """Trials that ended in any way."""
        study = self.study
        return study.completed + study.pruned + study.failed + study.preempted

    def child(self, ref: Ref) -> Manifest | None:
        return self.observed.children.get(ref)

    def job_condition(self, ref: Ref, kind: str) -> bool:
        """Whether a batch Job has reached Complete or Failed."""
        conditions = (self.child(ref) or {}).get("status", {}).get("conditions", [])
        return any(c["type"] == kind and c["status"] == "True" for c in conditions)
