"""Carries out plans on values: what a cluster and a study would look like afterwards. For tests of the planner alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from factories import NOON, SETTINGS, make_job, make_summary, with_batch_condition
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.api.problems import Problem
from kubeautoml.api.profile import AutoMLProfile
from kubeautoml.api.trials import MAX_ATTEMPTS, StudyOrders, StudySummary
from kubeautoml.plan import plan
from kubeautoml.plan.base import Observed, Plan, PodSeen, Settings


@dataclass
class Stage:
    """One job and its surroundings, moved by hand and by the planner."""

    job: AutoMLJob = field(default_factory=make_job)
    children: dict[Ref, Manifest] = field(default_factory=dict)
    pods: tuple[PodSeen, ...] = ()
    study: StudySummary | None = None
    profile: AutoMLProfile | None = None
    profile_missing: bool = False
    profile_error: str | None = None
    spec_problem: Problem | None = None
    study_error: str | None = None
    now: datetime = NOON
    settings: Settings = SETTINGS

    def look(self) -> Plan:
        """What the planner says now; nothing is carried out."""
        return plan(self.job, self.observed, now=self.now, settings=self.settings)

    @property
    def observed(self) -> Observed:
        return Observed(
            profile=self.profile,
            profile_missing=self.profile_missing,
            profile_error=self.profile_error,
            spec_problem=self.spec_problem,
            children=dict(self.children),
            pods=self.pods,
            study=self.study,
            study_error=self.study_error,
        )

    def one_pass(self) -> Plan:
        """Ask the planner and do what it says."""
        todo = self.look()
        if self.study is None and todo.study:
            self.study = make_summary()
        for manifest in todo.apply:
            before = self.children.get(Ref.of(manifest), {})
            self.children[Ref.of(manifest)] = {**before, **manifest}
        for ref in todo.delete:
            self.children.pop(ref, None)
        if self.study is not None:
            self.study = _written(self.study, todo.study)
        if todo.model_status is not None:
            ref, status = todo.model_status
            self.children[ref] = {**self.children[ref], "status": status.model_dump(mode="json", by_alias=True)}
        self.job = self.job.model_copy(update={"status": todo.status})
        return todo

    def settle(self) -> list[Plan]:
        """Pass after pass until one changes nothing; the passes before it."""
        passes: list[Plan] = []
        while len(passes) < 10:
            before = self.job.status
            todo = self.one_pass()
            acts = todo.apply or todo.delete or todo.study or todo.events or todo.model_status
            if todo.status == before and not acts:
                return passes
            passes.append(todo)
        raise AssertionError(f"the planner does not come to rest: {passes[-1]}")

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def edit(self, **spec: object) -> None:
        """The user changes the spec."""
        generation = self.job.metadata.generation + 1
        wanted = make_job(**spec).spec
        meta = self.job.metadata.model_copy(update={"generation": generation})
        self.job = self.job.model_copy(update={"spec": wanted, "metadata": meta})

    def end_batch_job(self, suffix: str, kind: str = "Complete") -> None:
        """The batch Job whose name ends so has reached a condition."""
        ref = next(r for r in self.children if r.name.endswith(suffix))
        self.children[ref] = with_batch_condition(self.children[ref], kind)

    def conditions(self) -> dict[str, str]:
        """Condition type -> "status reason"."""
        return {c.type: f"{c.status.value} {c.reason}" for c in self.job.status.conditions}

    def message(self, kind: str) -> str:
        return next(c.message for c in self.job.status.conditions if c.type == kind)

    def kinds(self) -> list[str]:
        """Children as "Kind name"."""
        return sorted(f"{ref.kind} {ref.name}" for ref in self.children)


def _written(study: StudySummary, orders: StudyOrders) -> StudySummary:
    if orders.reopen is not None:
        study = replace(study, failure=None, stage=None, result=None)
        study = replace(study, limits=None, exhausted=False, activity="") if orders.reopen.search else study
    study = study if orders.limits is None else replace(study, limits=orders.limits)
    for order in orders.retire:
        left = tuple(t for t in study.running_trials if t.number != order.number)
        is_last = order.attempt >= MAX_ATTEMPTS
        retried = {"preempted": study.preempted + 1, "waiting": study.waiting + (not is_last)}
        ended = retried if order.requeue else {"failed": study.failed + 1}
        study = replace(study, running=study.running - 1, running_trials=left, **ended)
    return study
