"""Lost workers: which running trials no pod stands behind any more, and whether each is tried again."""

from __future__ import annotations

from datetime import datetime

from kubeautoml.api.conditions import Reason
from kubeautoml.api.names import Component
from kubeautoml.api.trials import RetireTrial, RunningTrial, StudySummary
from kubeautoml.plan.base import Observed, PodSeen

UNCLAIMED_SECONDS = 60.0
"""A worker names its pod right after asking; while one lives, a trial without a name after this long has lost its own."""

MAX_OUT_OF_MEMORY_ATTEMPTS = 2
"""The same parameters ran out of memory twice: that is a finding, not bad luck."""


def retired_trials(study: StudySummary, observed: Observed, now: datetime) -> tuple[RetireTrial, ...]:
    """Trials to end as preempted. They are queued again also when the search has ended: it may be resumed."""
    alive = {p.uid for p in observed.pods if p.component == Component.WORKER and p.is_alive}
    dead = {p.uid: p for p in observed.pods if p.uid not in alive}
    lost = [t for t in study.running_trials if _is_lost(t, alive, now.timestamp())]
    return tuple(_retire(t, dead.get(t.pod_uid)) for t in lost)


def _is_lost(trial: RunningTrial, alive: set[str], now: float) -> bool:
    """The study was read before the pods were listed, so the pod that took a trial is in the list if it lives."""
    if not trial.pod_uid:
        return not alive or now - trial.started_at > UNCLAIMED_SECONDS
    return trial.pod_uid not in alive


def _retire(trial: RunningTrial, pod: PodSeen | None) -> RetireTrial:
    """Whose pod went away is no failure, also not the last time; who ran out of memory again and again is one."""
    out_of_memory = pod is not None and pod.reason == "OOMKilled"
    return RetireTrial(
        number=trial.number,
        attempt=trial.attempt,
        reason=Reason.OUT_OF_MEMORY if out_of_memory else Reason.PREEMPTED,
        requeue=not out_of_memory or trial.attempt < MAX_OUT_OF_MEMORY_ATTEMPTS,
    )
