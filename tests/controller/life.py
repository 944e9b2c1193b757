"""A job's surroundings for tests: a MemoryCluster, a real study in a file, and hands that play pods and controllers.

`World.settle` reconciles until nothing changes. With `dies_after` the operator is killed right after its n-th write and
started anew, which must make no difference.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import optuna

from factories import UID, make_manifest, make_result
from kubeautoml.api.errors import StudyError
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.metrics import Direction
from kubeautoml.api.names import (
    LABEL_COMPONENT,
    LABEL_JOB_UID,
    finalizer_job_name,
    server_name,
    study_name,
    worker_job_name,
)
from kubeautoml.api.objects import EventOrder, Manifest, Ref
from kubeautoml.api.trials import DataFacts, StudyAttr, StudyOrders, StudySummary, TrialAttr
from kubeautoml.cluster.memory import MemoryCluster
from kubeautoml.controller.observe import parse_job
from kubeautoml.controller.reconcile import reconcile
from kubeautoml.controller.settings import OperatorSettings
from kubeautoml.controller.studies import Studies
from kubeautoml.plan.base import Settings
from kubeautoml.study import create_study, open_study_storage, set_study_attr

JOB = Ref("AutoMLJob", "team-a", "churn")
WORKERS = Ref("Job", "team-a", worker_job_name("churn", UID))
FINALIZER = Ref("Job", "team-a", finalizer_job_name("churn", UID))
SERVER = Ref("Deployment", "team-a", server_name("churn"))


class Killed(Exception):
    """The operator's process is gone. Not one of the project's errors, so nothing may swallow it."""


class Fuse:
    """Counts the operator's writes and kills it after the n-th; None never does."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.left = dies_after
        self.writes = 0

    def burn(self) -> None:
        self.writes += 1
        if self.left is not None and self.writes == self.left:
            raise Killed


class FusedCluster(MemoryCluster):
    """A MemoryCluster whose user may die after any write."""

    def __init__(self, fuse: Fuse, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._fuse = fuse

    async def apply(self, manifest: Manifest) -> Manifest:
        result = await super().apply(manifest)
        self._fuse.burn()
        return result

    async def delete(self, ref: Ref, *, uid: str | None = None) -> bool:
        result = await super().delete(ref, uid=uid)
        self._fuse.burn()
        return result

    async def patch_status(self, ref: Ref, status: Manifest) -> None:
        await super().patch_status(ref, status)
        self._fuse.burn()

    async def emit(self, ref: Ref, uid: str, event: EventOrder) -> None:
        await super().emit(ref, uid, event)
        self._fuse.burn()


class LaggingCluster(FusedCluster):
    """One whose cached lists show what `fall_behind` saw, until somebody asks afresh."""

    def __init__(self, fuse: Fuse, **arguments: Any) -> None:
        super().__init__(fuse, **arguments)
        self._old: dict[str, list[Manifest]] = {}

    async def fall_behind(self, kind: str) -> None:
        """From now on the cache knows nothing newer of this kind."""
        self._old[kind] = await super().list(kind)

    async def list(
        self,
        kind: str,
        namespace: str | None = None,
        labels: dict[str, str] | None = None,
        *,
        fresh: bool = False,
    ) -> list[Manifest]:
        if kind in self._old and not fresh:
            return [m for m in self._old[kind] if (labels or {}).items() <= m["metadata"].get("labels", {}).items()]
        return await super().list(kind, namespace, labels, fresh=fresh)


class FusedStudies(Studies):
    """Studies whose user may die after any write. Looks into them are noted in `calls`."""

    def __init__(self, fuse: Fuse, calls: list[tuple[str, str]] | None = None) -> None:
        super().__init__()
        self._fuse = fuse
        self._calls = calls if calls is not None else []

    async def summary(self, url: str, name: str) -> StudySummary | None:
        self._calls.append(("summary", "study"))
        return await super().summary(url, name)

    async def create(self, url: str, name: str, direction: Direction) -> None:
        await super().create(url, name, direction)
        self._fuse.burn()

    async def carry_out(self, url: str, name: str, orders: StudyOrders) -> None:
        await super().carry_out(url, name, orders)
        self._fuse.burn()


def make_churn(**spec: Any) -> Manifest:
    """The job of these tests: two workers, four trials, an endpoint."""
    own = {
        "objective": {"metric": "RocAuc"},
        "budget": {"maxTrials": 4, "maxFailedTrials": 2},
        "workers": {"parallelism": 2},
        "serving": {"replicas": 1},
    }
    return make_manifest(**own | spec)


class World:
    """Everything around one job."""

    def __init__(
        self,
        folder: Path,
        dies_after: int | None = None,
        start: datetime | None = None,
        cluster: type[FusedCluster] = FusedCluster,
    ) -> None:
        # Optuna stamps trials with the machine's clock, so ours must be near it; it moves only when told to.
        self.start = self.now = start or datetime.now(UTC).replace(microsecond=0)
        self.fuse = Fuse(dies_after)
        uids = count(1)
        self.cluster = cluster(self.fuse, new_uid=lambda: f"uid-{next(uids)}", clock=lambda: self.now)
        self.url = f"journal://{folder}/study.log"
        self.settings = OperatorSettings(plan=Settings(study_url=self.url))
        self.restarts = 0

    # The operator

    async def settle(self) -> timedelta | None:
        """Reconcile until a pass changes nothing; returns when the operator wants to look again."""
        for _ in range(20):
            before = await self.snapshot()
            wake = await self._surviving_pass()
            if await self.snapshot() == before:
                return wake
        raise AssertionError("reconciling does not come to rest within 20 passes")

    async def one_pass(self) -> timedelta | None:
        """A pass of an operator that has just been started: nothing in its memory."""
        studies = FusedStudies(self.fuse, self.cluster.calls)
        try:
            return await reconcile(JOB, self.cluster, studies, lambda: self.now, self.settings)
        finally:
            studies.close()
            await self.idle()

    async def _surviving_pass(self) -> timedelta | None:
        while True:
            try:
                return await self.one_pass()
            except Killed:
                self.restarts += 1

    async def idle(self) -> None:
        """Let the garbage collector finish."""
        for _ in range(5):
            await asyncio.sleep(0)

    async def snapshot(self) -> dict[str, Any]:
        """All that lasts: objects and trials, without what merely counts writes."""
        objects = {}
        for ref, stored in sorted(self.cluster._objects.items()):
            meta = {k: v for k, v in stored.manifest["metadata"].items() if k != "resourceVersion"}
            objects[str(ref)] = {**stored.manifest, "metadata": meta}
        return {"objects": objects, "trials": self.trials(), "told": self.told()}

    def trials(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Number, state and parameters of every trial; none while the study cannot be read."""
        try:
            storage = open_study_storage(self.url)
        except StudyError:
            return []
        found = [t for s in storage.get_all_studies() for t in storage.get_all_trials(s._study_id)]
        return [(t.number, t.state.name, t.params) for t in found]

    def told(self) -> list[dict[str, Any]]:
        """What operator and pods have told each other through each study."""
        try:
            storage = open_study_storage(self.url)
        except StudyError:
            return []
        return [dict(storage.get_study_user_attrs(s._study_id)) for s in storage.get_all_studies()]

    # The user

    async def create(self, **spec: Any) -> None:
        await self.cluster.put(make_churn(**spec))

    async def job(self) -> AutoMLJob:
        manifest = await self.cluster.get(JOB)
        assert manifest is not None
        return parse_job(manifest)

    async def conditions(self) -> dict[str, str]:
        """Condition type -> "status reason"."""
        return {c.type: f"{c.status.value} {c.reason}" for c in (await self.job()).status.conditions}

    # Job controller and kubelet

    async def start_pods(self, owner: Ref) -> list[str]:
        """As many running pods as the batch Job asks for; returns their uids."""
        job = await self.cluster.get(owner)
        assert job is not None, f"{owner} was not created"
        uids = []
        for number in range(job["spec"]["parallelism"]):
            uid = f"{owner.name}-{number}-pod"
            uids.append(uid)
            template = job["spec"]["template"]
            await self.cluster.put(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {
                        "name": f"{owner.name}-{number}",
                        "namespace": owner.namespace,
                        "uid": uid,
                        "labels": template["metadata"]["labels"],
                        "ownerReferences": [
                            {
                                "apiVersion": "batch/v1",
                                "kind": "Job",
                                "name": owner.name,
                                "uid": job["metadata"]["uid"],
                                "controller": True,
                            }
                        ],
                    },
                    "spec": template["spec"],
                    "status": {
                        "phase": "Running",
                        "containerStatuses": [{"name": "c", "state": {"running": {"startedAt": _stamp(self.now)}}}],
                    },
                }
            )
        await self.cluster.edit(owner, {"status": {"active": len(uids), "startTime": _stamp(self.now)}})
        return uids

    async def lose_pod(self, name: str) -> None:
        """A node went away, and its pod with it; an hour later everybody knows."""
        await MemoryCluster.delete(self.cluster, Ref("Pod", "team-a", name))
        self.now += timedelta(hours=1)

    async def end_pods(self, owner: Ref, *, exit_code: int = 0, condition: str | None = "Complete") -> None:
        """All pods of a batch Job ended; it gets the condition."""
        job = await self.cluster.get(owner)
        assert job is not None
        phase, reason = ("Succeeded", "Completed") if exit_code == 0 else ("Failed", "Error")
        ended = {
            "exitCode": exit_code,
            "reason": reason,
            "startedAt": _stamp(self.start),
            "finishedAt": _stamp(self.now),
        }
        pods = [p for p in await self.cluster.list("Pod") if _owner(p) == job["metadata"]["uid"]]
        for pod in pods:
            status = {"phase": phase, "containerStatuses": [{"name": "c", "state": {"terminated": ended}}]}
            await self.cluster.edit(Ref.of(pod), {"status": status})
        counts = {"active": None, "succeeded" if exit_code == 0 else "failed": len(pods)}
        ends = [{"type": condition, "status": "True", "reason": "Test", "lastTransitionTime": _stamp(self.now)}]
        await self.cluster.edit(owner, {"status": {**counts, **({"conditions": ends} if condition else {})}})

    async def serve(self) -> None:
        """The Deployment's pods became ready."""
        deployment = await self.cluster.get(SERVER)
        assert deployment is not None, "no Deployment was created"
        replicas = deployment["spec"]["replicas"]
        status = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": replicas,
            "updatedReplicas": replicas,
            "readyReplicas": replicas,
            "availableReplicas": replicas,
            "conditions": [
                {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable"},
                {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"},
            ],
        }
        await self.cluster.edit(SERVER, {"status": status})

    # Workers and finalizer

    def study(self) -> optuna.Study:
        return create_study(open_study_storage(self.url), study_name("team-a", "churn", UID), Direction.MAXIMIZE)

    def report_data(self) -> None:
        facts = DataFacts(rows=800, columns=9, holdout_rows=200, folds=5, classes=2, sha256="a" * 64)
        set_study_attr(self.study(), StudyAttr.DATA, facts)

    def begin_trial(self, pod_uid: str) -> int:
        """A worker asks for a trial and says which pod runs it."""
        study = self.study()
        study.sampler = optuna.samplers.RandomSampler(seed=len(study.trials))
        trial = study.ask()
        attempt = trial.user_attrs.get(TrialAttr.ATTEMPT.value, 1)
        for attr, value in ((TrialAttr.POD_UID, pod_uid), (TrialAttr.ATTEMPT, attempt), (TrialAttr.FAMILY, "Linear")):
            trial.set_user_attr(attr.value, value)
        trial.suggest_float("x", 0.0, 1.0)
        return int(trial.number)

    def finish_trial(self, number: int, value: float | None) -> None:
        """A worker tells a score; None for a trial that failed."""
        if value is None:
            self.study().tell(number, state=optuna.trial.TrialState.FAIL)
        else:
            self.study().tell(number, value)

    def report_result(self) -> None:
        result = make_result(metrics={"RocAuc": 0.91}, finished_at=self.now.timestamp())
        set_study_attr(self.study(), StudyAttr.RESULT, result)


def component_of(pod: Manifest) -> tuple[str, str]:
    """The labels by which the operator finds a pod."""
    labels = pod["metadata"]["labels"]
    return labels[LABEL_JOB_UID], labels[LABEL_COMPONENT]


def _owner(pod: Manifest) -> str:
    return str(pod["metadata"]["ownerReferences"][0]["uid"])


def _stamp(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
