"""Reconciles one job over any cluster until it is where one wants it: `kubeautoml run` does it instead of an operator.

In short:

>>> async with LocalCluster(workdir, serve=serve) as cluster:  # doctest: +SKIP
...     await cluster.put(manifest)
...     driver = Driver(ref, cluster, studies, settings, on_status=view.show)
...     loop.add_signal_handler(signal.SIGINT, driver.request_stop)
...     job = await driver.run(has_ended)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from kubeautoml.api.conditions import ConditionStatus, ConditionType, find_condition
from kubeautoml.api.errors import KubeAutoMLError, ManifestError
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.names import study_name
from kubeautoml.api.objects import Ref
from kubeautoml.cluster.base import Cluster
from kubeautoml.controller.observe import find_profile, parse_job
from kubeautoml.controller.reconcile import Clock, reconcile
from kubeautoml.controller.settings import OperatorSettings
from kubeautoml.controller.studies import Studies

WATCHED_KINDS = ("AutoMLJob", "Job", "Pod", "Deployment")

MAX_FAILURES = 5
"""Failed passes in a row after which `run` gives up: on one machine nothing heals by itself for long. A guess."""


def has_ended(job: AutoMLJob) -> bool:
    """Whether the job has a model, or never will: it succeeded, failed, or was refused."""
    return _is(job, ConditionType.SUCCEEDED, "True", "False") or _is(job, ConditionType.ACCEPTED, "False")


def is_settled(job: AutoMLJob) -> bool:
    """Whether the job has ended and its endpoint, if it has one, answers or never will."""
    succeeded = _is(job, ConditionType.SUCCEEDED, "True")
    return has_ended(job) and (not succeeded or _is(job, ConditionType.READY, "True", "False"))


class Driver:
    """One job's life, driven from here. Use it in one event loop.

    Args:
        ref: the AutoMLJob, which is in the cluster already.
        studies: where its study is; stays open after `run`.
        on_status: called with the job after every change of its status, in the event loop; must return soon.
        poll_seconds: longest time between two looks, so that a view of the trials moves.
    """

    def __init__(
        self,
        ref: Ref,
        cluster: Cluster,
        studies: Studies,
        settings: OperatorSettings,
        *,
        clock: Clock = lambda: datetime.now(UTC),
        on_status: Callable[[AutoMLJob], None] | None = None,
        poll_seconds: float = 1.0,
    ) -> None:
        self._ref = ref
        self._cluster = cluster
        self._studies = studies
        self._settings = settings
        self._clock = clock
        self._on_status = on_status
        self._poll_seconds = poll_seconds
        self._changed = asyncio.Event()
        self._stop_requested = False

    def request_stop(self) -> None:
        """End the search soon and make the model of what there is; `run` goes on until that is done. Never blocks."""
        self._stop_requested = True
        self._changed.set()

    async def run(self, until: Callable[[AutoMLJob], bool] = has_ended) -> AutoMLJob:
        """Reconcile until the condition holds; returns the job as it is then. Cancel it to leave at once.

        Raises:
            KubeAutoMLError: the job is not there, or five passes in a row failed.
        """
        watches = [asyncio.create_task(self._watch(kind)) for kind in WATCHED_KINDS]
        try:
            return await self._run(until)
        finally:
            for task in watches:
                task.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    async def _run(self, until: Callable[[AutoMLJob], bool]) -> AutoMLJob:
        shown, failures = None, 0
        while True:
            self._changed.clear()
            wait = self._poll_seconds
            try:
                await self._stop_if_requested()
                wake = await reconcile(self._ref, self._cluster, self._studies, self._clock, self._settings)
                wait = min(wait, wake.total_seconds()) if wake is not None else wait
                failures = 0
            except KubeAutoMLError:
                failures += 1
                if failures == MAX_FAILURES:
                    raise
            job = await self._job()
            if job.status != shown and self._on_status:
                self._on_status(job)
            shown = job.status
            if until(job):
                return job
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), max(wait, 0.0))

    async def _job(self) -> AutoMLJob:
        manifest = await self._cluster.get(self._ref)
        if manifest is None:
            raise ManifestError(f"{self._ref} is gone; nothing is left to run", reason="NotFound")
        return parse_job(manifest)

    async def _stop_if_requested(self) -> None:
        """Write the wish into the study; before there are limits nothing has been searched, so the wish waits."""
        if not self._stop_requested:
            return
        job = await self._job()
        url = self._settings.study_url_for(await find_profile(job, self._cluster))
        name = study_name(job.metadata.namespace, job.metadata.name, job.metadata.uid)
        self._stop_requested = not await self._studies.stop(url, name)

    async def _watch(self, kind: str) -> None:
        async for _ in self._cluster.watch(kind, self._ref.namespace):
            self._changed.set()


def _is(job: AutoMLJob, kind: ConditionType, *statuses: str) -> bool:
    """Whether a condition of the present generation has one of the statuses."""
    condition = find_condition(job.status.conditions, kind)
    return condition is not None and ConditionStatus(condition.status).value in statuses
