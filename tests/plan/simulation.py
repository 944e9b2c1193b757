"""A job's whole life on simulated time: the real planner, with workers, a Job controller and a clock made of numbers.

True time is what workers and the cluster live by; the operator's clock may be wrong, and it may be down for a while. Its cache is
as old as its last pass. Nothing here decides for the planner: pods start, take trials by the workers' own rule, and leave.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from factories import NOON, make_data, make_finished_trial, make_job, make_limits, make_pod, make_result, make_summary
from factories import make_running_trial as running_trial
from kubeautoml.api.names import Component
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.api.trials import MAX_ATTEMPTS, StudyLimits
from kubeautoml.plan.base import PodSeen
from plan.carry import Stage

START_SECONDS = 4.0
"""From a pod's creation to its first trial."""

LEAVE_SECONDS = 8.0
"""From SIGTERM to the end of a worker, at most."""

FINALIZE_SECONDS = 10.0
CUT_SECONDS = 2.0
"""A running trial looks at the limits this often."""

STEP_SECONDS = 0.5


@dataclass
class Trial:
    """One trial of the simulated study."""

    number: int
    pod: str
    started_at: float
    ends_at: float
    attempt: int = 1
    state: str = "running"
    value: float = 0.0
    ended_at: float = 0.0


@dataclass
class Pod:
    """One simulated pod."""

    uid: str
    component: Component
    owner: Ref
    created_at: float
    accelerators: int
    started_at: float | None = None
    ended_at: float | None = None
    leaves_at: float | None = None
    """It was deleted, and will be gone then."""


@dataclass
class Simulation:
    """Run it with `until`; times are seconds of true time since noon.

    Args:
        seconds_of: how long the n-th trial takes; by default 5 to 15 s.
        value_of: its score; None fails it.
        clock: what the operator's clock shows, by true time.
        pods_clock: what all other clocks show.
        is_down: whether the operator is away, by true time.
    """

    spec: dict[str, Any]
    seed: int = 0
    seconds_of: Callable[[int], float] | None = None
    value_of: Callable[[int], float | None] | None = None
    clock: Callable[[float], float] = lambda t: t
    pods_clock: Callable[[float], float] = lambda t: t
    is_down: Callable[[float], bool] = lambda t: False
    edits: dict[float, dict[str, Any]] = field(default_factory=dict)
    """True time -> what the user makes of the spec then."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.stage = Stage(make_job(**self.spec))
        self.trials: list[Trial] = []
        self._by_state: Counter[str] = Counter()
        self._running: dict[str, Trial] = {}
        self._top: list[Trial] = []
        self._since_best = 0
        self.waiting: list[int] = []
        """Attempts of queued retries."""
        self.pods: dict[str, Pod] = {}
        self.now = 0.0
        self.accelerator_seconds = 0.0
        """What was really used."""
        self._wake = 0.0
        self._names = 0
        self._finalizer_done: float | None = None

    # Looking

    def condition(self, kind: str) -> str:
        return self.stage.conditions().get(kind, "")

    @property
    def has_ended(self) -> bool:
        return self.condition("Succeeded").startswith(("True", "False"))

    def count(self, *states: str) -> int:
        return sum(self._by_state[s] for s in states)

    @property
    def finished(self) -> int:
        return self.count("completed", "failed")

    @property
    def living(self) -> list[Pod]:
        return [p for p in self.pods.values() if p.ended_at is None]

    def workers(self) -> list[Pod]:
        return [p for p in self.living if p.component is Component.WORKER]

    # Running

    def until(self, holds: Callable[[Simulation], bool], within: float) -> None:
        """Let time pass until it holds.

        Raises:
            AssertionError: it does not hold within that many seconds.
        """
        end = self.now + within
        while not holds(self):
            assert self.now < end, f"not within {within} s: {self.stage.conditions()}, {self.finished} trials finished"
            self.step()

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.step()

    def to_the_end(self, within: float = 20_000) -> None:
        self.until(lambda s: s.has_ended, within)

    def step(self) -> None:
        self.now = round(self.now + STEP_SECONDS, 3)
        self.accelerator_seconds += STEP_SECONDS * sum(p.accelerators for p in self.living if p.started_at is not None)
        for at in [at for at in self.edits if at <= self.now]:
            self.stage.edit(**self.edits.pop(at))
            self._wake = self.now
        before = self._pod_states()
        self._move_pods()
        self._run_trials()
        if self._pod_states() != before:
            self._wake = self.now
        if self.now >= self._wake and not self.is_down(self.now):
            self._operate()

    def _pod_states(self) -> list[tuple[str, bool, bool]]:
        return [(p.uid, p.started_at is None, p.ended_at is None) for p in self.pods.values()]

    # The operator

    def _operate(self) -> None:
        stage = self.stage
        stage.now = NOON + timedelta(seconds=self.clock(self.now))
        stage.pods = tuple(self._seen(p) for p in self.pods.values())
        stage.study = self._summary() if stage.study is not None else None
        todo = stage.one_pass()
        if stage.study is not None:
            self._limits = stage.study.limits
        for order in todo.study.retire:
            self._preempt(self.trials[order.number], requeue=order.requeue)
        self._wake = self.now + (todo.wake_after.total_seconds() if todo.wake_after is not None else 1e9)
        if todo.apply or todo.delete or todo.study:
            self._wake = min(self._wake, self.now + STEP_SECONDS)

    _limits: StudyLimits | None = None

    def _seen(self, pod: Pod) -> PodSeen:
        phase = "Pending" if pod.started_at is None else "Running" if pod.ended_at is None else "Succeeded"
        stamp = self._stamp
        return make_pod(
            pod.uid,
            pod.component,
            phase,
            is_deleting=pod.leaves_at is not None,
            started_at=None if pod.started_at is None else stamp(pod.started_at),
            finished_at=None if pod.ended_at is None else stamp(pod.ended_at),
            accelerators=pod.accelerators,
        )

    def _stamp(self, moment: float) -> float:
        """What a clock of the cluster showed at a moment of true time: whole seconds, since Kubernetes writes no others."""
        return float(int(NOON.timestamp() + self.pods_clock(moment)))

    def _summary(self) -> Any:
        running = self._running.values()
        return make_summary(
            best=[make_finished_trial(t.number, t.value) for t in self._top],
            waiting=len(self.waiting),
            running=len(running),
            running_trials=tuple(running_trial(t.number, t.pod, t.attempt, self._stamp(t.started_at)) for t in running),
            completed=self.count("completed"),
            failed=self.count("failed"),
            preempted=self.count("preempted"),
            trials_since_best=self._since_best,
            data=make_data() if self.trials else None,
            limits=self._limits,
            result=make_result() if self._finalizer_done is not None else None,
        )

    # The Job controller and the kubelet

    def _move_pods(self) -> None:
        for job in [m for m in self.stage.children.values() if m["kind"] == "Job"]:
            self._fit(Ref.of(job), job)
        gone = []
        for pod in self.pods.values():
            job = self.stage.children.get(pod.owner)
            if pod.leaves_at is None and pod.ended_at is None and (job is None or job["spec"].get("suspend")):
                pod.leaves_at = self.now + self.random.uniform(1.0, LEAVE_SECONDS)
            if pod.started_at is None and self.now >= pod.created_at + START_SECONDS:
                pod.started_at = self.now
            if pod.leaves_at is not None and self.now >= pod.leaves_at:
                self._give_up_trial_of(pod)
                gone.append(pod.uid)
            elif job is None and pod.ended_at is not None:
                gone.append(pod.uid)
        for uid in gone:
            self.pods.pop(uid, None)

    def _fit(self, ref: Ref, job: Manifest) -> None:
        mine = [p for p in self.pods.values() if p.owner == ref]
        alive = [p for p in mine if p.ended_at is None and p.leaves_at is None]
        left = [p for p in mine if p.ended_at is not None]
        if left and not alive and "status" not in job:
            self.stage.children[ref] = {**job, "status": {"conditions": [{"type": "Complete", "status": "True"}]}}
            self._wake = self.now
        if job["spec"].get("suspend") or left:
            return
        template = job["spec"]["template"]
        limits = template["spec"]["containers"][0]["resources"].get("limits", {})
        component = Component(template["metadata"]["labels"]["kubeautoml.dev/component"])
        for _ in range(job["spec"]["parallelism"] - len(alive)):
            self._names += 1
            uid = f"pod-{self._names}"
            self.pods[uid] = Pod(uid, component, ref, self.now, int(limits.get("nvidia.com/gpu", 0)))
        for pod in alive[job["spec"]["parallelism"] :]:
            pod.leaves_at = self.now + self.random.uniform(1.0, LEAVE_SECONDS)

    # Workers and finalizer

    def _run_trials(self) -> None:
        for pod in self.living:
            if pod.started_at is None:
                continue
            if pod.component is Component.FINALIZER:
                if self.now >= pod.started_at + FINALIZE_SECONDS:
                    pod.ended_at = self._finalizer_done = self.now
                continue
            self._work(pod)

    def _work(self, pod: Pod) -> None:
        trial = self._running.get(pod.uid)
        limits = self._limits or make_limits(max_trials=1)
        unix = NOON.timestamp() + self.pods_clock(self.now)
        if trial is not None and self.now >= trial.ends_at:
            self._finish(trial)
            trial = None
        must_cut = limits.stop or (limits.search_deadline is not None and unix >= limits.search_deadline)
        if trial is not None and must_cut and self.now % CUT_SECONDS == 0:
            self._end(trial, "cut")
            trial = None
        if trial is None and pod.leaves_at is None:
            if self._reason_to_stop(limits, unix):
                pod.ended_at = self.now
            else:
                self._begin(pod)

    def _reason_to_stop(self, limits: StudyLimits, unix: float) -> bool:
        """The workers' own rule (`kubeautoml_trainer.search.budget.reason_to_stop`), in the simulation's terms."""
        if limits.stop or (limits.search_deadline is not None and unix + 0.5 >= limits.search_deadline):
            return True
        best, target, patience = (
            (self._top[0].value if self._top else None),
            limits.target_value,
            limits.patience_trials,
        )
        if self.count("failed") >= limits.max_failed_trials:
            return True
        if target is not None and best is not None and best >= target:
            return True
        if patience is not None and best is not None and self._since_best >= patience:
            return True
        return self.finished + len(self._running) >= limits.max_trials and not self.waiting

    def _begin(self, pod: Pod) -> None:
        number = len(self.trials)
        seconds = self.seconds_of(number) if self.seconds_of else self.random.uniform(5.0, 15.0)
        attempt = self.waiting.pop(0) if self.waiting else 1
        self._running[pod.uid] = Trial(number, pod.uid, self.now, self.now + seconds, attempt)
        self.trials.append(self._running[pod.uid])

    def _finish(self, trial: Trial) -> None:
        value = self.value_of(trial.number) if self.value_of else self.random.uniform(0.5, 0.9)
        self._end(trial, "failed" if value is None else "completed")
        if value is None:
            return
        trial.value = value
        is_best = not self._top or value > self._top[0].value
        self._since_best = 0 if is_best else self._since_best + 1
        self._top = sorted([*self._top, trial], key=lambda t: (-t.value, t.ended_at))[:10]

    def _end(self, trial: Trial, state: str) -> None:
        trial.state, trial.ended_at = state, self.now
        self._by_state[state] += 1
        self._running.pop(trial.pod, None)

    def _give_up_trial_of(self, pod: Pod) -> None:
        trial = self._running.get(pod.uid)
        if trial is not None:
            self._preempt(trial, requeue=True)

    def _preempt(self, trial: Trial, *, requeue: bool) -> None:
        if trial.state != "running":
            return
        self._end(trial, "preempted" if requeue else "failed")
        if requeue and trial.attempt < MAX_ATTEMPTS:
            self.waiting.append(trial.attempt + 1)

    # What else happens

    def lose(self, pod: Pod) -> None:
        """Its node is gone, and it with it."""
        self.pods.pop(pod.uid)

    def admit(self, parallelism: int | None = None) -> None:
        """A queue resumes whatever is suspended, perhaps with fewer pods."""
        self._set(suspend=False, **({} if parallelism is None else {"parallelism": parallelism}))

    def evict(self) -> None:
        """A queue suspends what runs."""
        self._set(suspend=True)

    def _set(self, **spec: Any) -> None:
        for ref, job in self.stage.children.items():
            if job["kind"] == "Job" and "status" not in job:
                self.stage.children[ref] = replace_spec(job, **spec)
        self._wake = self.now


def replace_spec(job: Manifest, **spec: Any) -> Manifest:
    return {**job, "spec": {**job["spec"], **spec}}
