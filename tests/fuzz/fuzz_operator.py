"""The operator's real pass over a memory cluster, with a study that a test moves through its life. No file, no thread."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from factories import NOON, SETTINGS, make_data, make_finished_trial, make_limits, make_result, make_summary
from kubeautoml.api.metrics import Direction
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.api.trials import StudyLimits, StudyOrders, StudySummary
from kubeautoml.cluster.memory import MemoryCluster
from kubeautoml.controller.observe import (
    OPTIONAL_SERVING_KINDS,
    OPTIONAL_TRAINING_KINDS,
    SERVING_KINDS,
    TRAINING_KINDS,
)
from kubeautoml.controller.reconcile import reconcile
from kubeautoml.controller.settings import OperatorSettings
from kubeautoml.controller.studies import Studies

PASSES = 6
"""Enough for a plan to come to rest after each thing that happens."""

CPU_SECONDS = 10.0
"""One pass takes milliseconds. Not wall time: the machine may be busy; and a collection of a long run's garbage may fall into one."""

JOB = Ref("AutoMLJob", "team-a", "churn")
KINDS = (*TRAINING_KINDS, *SERVING_KINDS, *OPTIONAL_TRAINING_KINDS, *OPTIONAL_SERVING_KINDS)


class FakeStudies(Studies):
    """One study, in memory, as the planner asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.study: StudySummary | None = None

    async def summary(self, url: str, name: str) -> StudySummary | None:
        return self.study

    async def latest(self, url: str, namespace: str, job: str) -> str | None:
        return None

    async def create(self, url: str, name: str, direction: Direction) -> None:
        self.study = self.study or make_summary()

    async def carry_out(self, url: str, name: str, orders: StudyOrders) -> None:
        if self.study is not None and orders.limits is not None:
            self.study = replace(self.study, limits=orders.limits)


@dataclass
class Operator:
    """The real pass over a memory cluster."""

    cluster: MemoryCluster = field(default_factory=MemoryCluster)
    studies: FakeStudies = field(default_factory=FakeStudies)
    now: datetime = NOON

    async def pass_(self, ref: Ref = JOB) -> None:
        """Once; it must take little time."""
        began = time.process_time()
        wake = await reconcile(ref, self.cluster, self.studies, lambda: self.now, OperatorSettings(plan=SETTINGS))
        assert time.process_time() - began < CPU_SECONDS
        assert wake is None or wake > timedelta(0)

    async def settle(self, ref: Ref = JOB) -> None:
        """Until it writes nothing more, which must be soon."""
        for _ in range(PASSES):
            before = await self.versions()
            await self.pass_(ref)
            if await self.versions() == before:
                return
        raise AssertionError(f"still changing things after {PASSES} passes: {self.cluster.calls[-9:]}")

    async def versions(self) -> list[tuple[Ref, str]]:
        """Every object, as a watch would tell whether it changed."""
        kinds = ("AutoMLJob", *KINDS)
        return [(Ref.of(m), m["metadata"]["resourceVersion"]) for k in kinds for m in await self.cluster.list(k)]

    async def live(self, ref: Ref = JOB) -> None:
        """The search goes on, ends, and leaves a model: as far as the job lets it."""
        await self.settle(ref)
        if self.studies.study is None:
            return
        best = [make_finished_trial(0, 0.9)]
        ended: StudyLimits = replace(self.studies.study.limits or make_limits(), stop=True)
        searched = make_summary(best=best, data=make_data(), limits=self.studies.study.limits)
        for study in (searched, replace(searched, limits=ended), replace(searched, limits=ended, result=make_result())):
            self.studies.study = study
            self.now += timedelta(seconds=60)
            await self.settle(ref)

    async def children(self) -> dict[Ref, Manifest]:
        return {Ref.of(m): m for kind in KINDS for m in await self.cluster.list(kind)}
