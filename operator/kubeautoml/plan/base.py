"""What goes into the planner and what comes out. Values only: no clock, no network, no environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from kubeautoml.api.conditions import ConditionStatus, ConditionType, find_condition
from kubeautoml.api.job_status import AutoMLJobStatus
from kubeautoml.api.model import AutoMLModelStatus
from kubeautoml.api.objects import EventOrder, Manifest, Ref
from kubeautoml.api.problems import Problem
from kubeautoml.api.profile import AutoMLProfile
from kubeautoml.api.trials import StudyOrders, StudySummary

TAKEN_REASONS = ("Evicted", "Preempting", "NodeLost", "NodeShutdown", "Terminated")
TAKEN_EXIT_CODES = (128 + 9, 128 + 15)
"""SIGKILL and SIGTERM from outside: what a pod finds wrong ends it with 1, a library's crash with another signal."""


@dataclass(frozen=True)
class PodSeen:
    """What the planner needs of one pod."""

    name: str
    uid: str
    component: str
    phase: str
    """Pending, Running, Succeeded, Failed or Unknown."""
    is_deleting: bool = False
    exit_code: int | None = None
    reason: str = ""
    """Why it waits or ended, such as OOMKilled, Evicted, ImagePullBackOff, Unschedulable."""
    message: str = ""
    started_at: float | None = None
    finished_at: float | None = None
    accelerators: int = 0
    """Accelerators it holds; accelerator seconds are counted from its time."""

    @property
    def is_alive(self) -> bool:
        """Whether a process may still be running in it."""
        return self.phase in ("Pending", "Running", "Unknown")

    @property
    def was_taken(self) -> bool:
        """Whether it ended because somebody or something took it away, and not by itself."""
        if self.phase != "Failed" or self.reason == "OOMKilled":
            return False
        return self.reason in TAKEN_REASONS or self.exit_code in TAKEN_EXIT_CODES


@dataclass(frozen=True)
class Observed:
    """All that was seen of one job's surroundings in one pass."""

    profile: AutoMLProfile | None = None
    profile_missing: bool = False
    """The job names a profile that does not exist (a missing `default` is fine: built-in settings)."""
    profile_error: str | None = None
    """Why the job's profile, which is there, cannot be used."""
    spec_problem: Problem | None = None
    """Why the spec as it is stored cannot be read; the job is then the one that was accepted last."""
    children: dict[Ref, Manifest] = field(default_factory=dict)
    pods: tuple[PodSeen, ...] = ()
    study: StudySummary | None = None
    """None before the study exists."""
    warm_start: tuple[str, ...] | None = None
    """Studies that search.warmStartFrom means; None when it names none, or they have been written."""
    study_error: str | None = None
    """Why the study could not be read; the planner then decides nothing that needs it."""


@dataclass(frozen=True)
class Settings:
    """The operator's own settings, the same for all jobs."""

    study_url: str
    """Study URL for pods, unless the profile sets one."""
    trainer_image: str = "kubeautoml-trainer:0.1.0"
    server_image: str = "kubeautoml-server:0.1.0"
    study_ca_config_map: str | None = None
    """ConfigMap in the job's namespace with the authority (ca.crt) of the study server at `study_url`."""
    study_ca: str | None = None
    """The authority itself, PEM, for pods to carry; `study_ca_config_map` wins over it."""
    serving_enabled: bool = True
    """False on a laptop without --serve: the model is stored, Ready says so."""
    status_interval_seconds: float = 5.0
    """Shortest time between two status updates that only move counters; conditions are published at once."""
    status_trials: int = 10
    """Trials that must have ended between two such updates, unless six times the interval has passed: an API write for
    every tenth trial is the goal."""
    keeps_all_trials: bool = False
    """True on a laptop, where a finished search may be gone on with: retention.keepTrialArtifacts is not applied."""
    queueing_enabled: bool = True
    """False on a laptop, where no Kueue would ever admit a Job."""
    resync_seconds: float = 30.0
    """Longest time between two looks at a job that is running."""
    machine_cores: int | None = None
    """On a laptop: its cores, which workers share where nobody says what one gets, and which the finalizer has after them. In a cluster
    pods get what they ask for."""


@dataclass(frozen=True)
class Plan:
    """What to do, in this order: apply, delete, write the study, publish the status, emit the events, publish the model's."""

    apply: tuple[Manifest, ...] = ()
    delete: tuple[Ref, ...] = ()
    study: StudyOrders = field(default_factory=StudyOrders)
    status: AutoMLJobStatus = field(default_factory=AutoMLJobStatus)
    events: tuple[EventOrder, ...] = ()
    model_status: tuple[Ref, AutoMLModelStatus] | None = None
    """What the status of the job's AutoMLModel must become; None leaves it."""
    wake_after: timedelta | None = None
    """When to look again even if nothing happens; None when only an event can change anything."""

    def is_grave(self, before: AutoMLJobStatus) -> bool:
        """Whether it does what cannot be undone: ends a trial, deletes something, or fails the job. It must then be decided
        on a fresh look, since a cache may lag behind what pods have done."""
        fails = is_failed(self.status) and not is_failed(before)
        return bool(self.study.retire or self.study.reopen or self.delete or fails)


def is_failed(status: AutoMLJobStatus) -> bool:
    """Whether the job has failed for good."""
    said = find_condition(status.conditions, ConditionType.SUCCEEDED)
    return said is not None and said.status is ConditionStatus.FALSE
