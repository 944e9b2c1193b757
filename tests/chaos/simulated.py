"""A job's life in memory, in which the operator dies between any two of its calls, and workers between any two of theirs.

Nothing waits and nothing is a process, so that thousands of passes take seconds. The operator is the real `reconcile` over a
`MemoryCluster` and a real study in a file; the Job controller, workers and the finalizer are played here, a step at a time.
"""

from __future__ import annotations

import inspect
import random
from collections import Counter
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import optuna

from chaos.observer import TrialRow
from chaos.verdict import Ended
from controller.life import FINALIZER, JOB, WORKERS, World
from kubeautoml.api.errors import KubeAutoMLError
from kubeautoml.api.names import study_name
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.api.trials import TrialAttr
from kubeautoml.controller.reconcile import reconcile
from kubeautoml.controller.studies import Studies
from kubeautoml.study import read_limits
from kubeautoml_trainer.search.budget import reason_to_stop, tally

MAX_CALLS = 60
"""An operator dies at the latest at this call: about as many as the longest pass makes."""
FINALIZER_DEATHS = 2
"""As many as the finalizer's Job forgives (its backoffLimit)."""


class Died(BaseException):
    """The operator's process is gone. Not an Exception, so nothing may swallow it."""


class Fuse:
    """Kills after so many calls; 0 never."""

    def __init__(self) -> None:
        self.left = 0

    def burn(self) -> None:
        if self.left:
            self.left -= 1
            if not self.left:
                raise Died


class Mortal:
    """Whatever it stands for, its user may die right before and right after any call of a method."""

    def __init__(self, real: Any, fuse: Fuse) -> None:
        self._real, self._fuse = real, fuse

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._real, name)
        if not callable(method):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            self._fuse.burn()
            answer = method(*args, **kwargs)
            self._fuse.burn()
            return answer

        async def call_and_wait(*args: Any, **kwargs: Any) -> Any:
            self._fuse.burn()
            answer = await method(*args, **kwargs)
            self._fuse.burn()
            return answer

        return call_and_wait if inspect.iscoroutinefunction(method) else call


class MortalStudies(Studies):
    """Studies whose user may die within a change, too: between two calls of the storage."""

    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self._fuse_of_storage = fuse

    def _open(self, url: str) -> Any:
        return Mortal(super()._open(url), self._fuse_of_storage)


class Simulation:
    """One job and everybody around it; `step` until `has_ended`."""

    def __init__(self, folder: Path, seed: int, max_trials: int = 10) -> None:
        self.random = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.completed: dict[int, float] = {}
        self.world = World(folder)
        self._max_trials = max_trials
        self._fuse = Fuse()
        self._studies = MortalStudies(self._fuse)
        self._storage: Any = None
        self._pods = count(1)
        self._trial_of: dict[str, int | None] = {}
        self._finalizer_steps: dict[str, int] = {}
        self._told = 0

    async def create(self) -> None:
        budget = {"maxTrials": self._max_trials, "maxFailedTrials": 1}
        await self.world.create(budget=budget, serving=None, workers={"parallelism": 2})

    def close(self) -> None:
        self._studies.close()

    async def has_ended(self) -> bool:
        said = (await self.world.conditions()).get("Succeeded", "")
        return said.startswith(("True", "False"))

    async def step(self) -> None:
        """Somebody does something, or dies."""
        acts = [
            self._operate,
            self._operate,
            self._control,
            self._work,
            self._work,
            self._work,
            self._finalize,
            self._edit,
        ]
        await self.random.choice(acts)()
        self.world.now += timedelta(seconds=self.random.uniform(0.0, 2.0))
        await self._compare()

    async def ended(self) -> Ended:
        """What there is at the end."""
        manifest = await self.world.cluster.get(JOB)
        assert manifest is not None
        rows = {
            t.number: TrialRow(t.number, t.state.name, t.values[0] if t.values else None, t.user_attrs)
            for t in self._trials()
        }
        return Ended(manifest, rows)

    # The operator

    async def _operate(self) -> None:
        """One pass, in which it may die; mostly the next one has nothing in memory."""
        self._fuse.left = self.random.choice([0, self.random.randint(1, MAX_CALLS)])
        try:
            world = self.world
            await reconcile(JOB, Mortal(world.cluster, self._fuse), self._studies, lambda: world.now, world.settings)
        except Died:
            self.kills["operator"] += 1
            if self.random.random() < 0.1:
                self._studies.close()
                self._studies = MortalStudies(self._fuse)
        except KubeAutoMLError:
            pass  # a later pass goes on
        finally:
            self._fuse.left = 0
            await self.world.idle()

    # Job controller and kubelet

    async def _control(self) -> None:
        """As many pods as the batch Jobs ask for."""
        cluster = self.world.cluster
        for ref in (WORKERS, FINALIZER):
            batch = await cluster.get(ref)
            pods = await self._pods_of(ref)
            alive = [p for p in pods if p["status"]["phase"] == "Running"]
            if batch is None:
                for pod in pods:
                    await cluster.delete(Ref.of(pod))
                continue
            if any(p["status"]["phase"] == "Succeeded" for p in pods):
                if not alive and not (batch.get("status") or {}).get("conditions"):
                    await self._complete(ref, batch)
                continue
            for _ in range(batch["spec"]["parallelism"] - len(alive)):
                await self._start_pod(ref, batch)
            for pod in alive[batch["spec"]["parallelism"] :]:
                await cluster.delete(Ref.of(pod))

    async def _complete(self, ref: Ref, batch: Manifest) -> None:
        ends = {"type": "Complete", "status": "True", "reason": "Test", "lastTransitionTime": self._stamp()}
        await self.world.cluster.edit(ref, {"status": {"conditions": [ends], "succeeded": 1}})

    async def _start_pod(self, ref: Ref, batch: Manifest) -> None:
        number, template = next(self._pods), batch["spec"]["template"]
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": ref.name,
            "uid": batch["metadata"]["uid"],
            "controller": True,
        }
        running = {"name": "c", "state": {"running": {"startedAt": self._stamp()}}}
        metadata = {
            "name": f"{ref.name}-{number}",
            "namespace": ref.namespace,
            "uid": f"pod-{number}",
            "labels": template["metadata"]["labels"],
            "ownerReferences": [owner],
        }
        status = {"phase": "Running", "containerStatuses": [running]}
        await self.world.cluster.put(
            {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"], "status": status}
        )

    async def _end_pod(self, pod: Manifest, code: int) -> None:
        ended = {"exitCode": code, "reason": "Error", "startedAt": self._stamp(), "finishedAt": self._stamp()}
        phase = "Failed" if code else "Succeeded"
        status = {"phase": phase, "containerStatuses": [{"name": "c", "state": {"terminated": ended}}]}
        await self.world.cluster.edit(Ref.of(pod), {"status": status})

    async def _lose_pod(self, pod: Manifest, who: str) -> None:
        """Its process is killed, or somebody deletes it."""
        self.kills[who] += 1
        if self.random.random() < 0.5:
            await self._end_pod(pod, 137)
        else:
            await self.world.cluster.delete(Ref.of(pod))

    # Workers and finalizer

    async def _work(self) -> None:
        """One step of one worker: claim, name, finish or leave; it may die instead of any."""
        alive = [p for p in await self._pods_of(WORKERS) if p["status"]["phase"] == "Running"]
        study = self._study()
        if not alive or study is None:
            return None
        pod = self.random.choice(alive)
        uid = pod["metadata"]["uid"]
        number = self._trial_of.get(uid)
        if self.random.random() < 0.2:
            return await self._lose_pod(pod, "worker")
        limits = read_limits(study)
        if limits is None:
            return None
        if number is None:
            seen = tally(study.get_trials(deepcopy=False), "RocAuc")
            if reason_to_stop(limits, seen, "RocAuc", self.world.now.timestamp()) is not None:
                return await self._end_pod(pod, 0)
            trial = study.ask()
            if self.random.random() < 0.1:
                return await self._lose_pod(pod, "worker")
            self._trial_of[uid] = trial.number
            trial.set_user_attr(TrialAttr.POD_UID, uid)
            trial.suggest_float("x", 0.0, 1.0)
            return None
        self._finish(study, uid, number)
        return None

    def _finish(self, study: optuna.Study, uid: str, number: int) -> None:
        """Tell a value; whose trial was retired meanwhile, such as a zombie's, is refused."""
        self._trial_of[uid] = None
        value = self.random.random()
        try:
            study.tell(number, value)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            return
        self.completed[number] = value

    async def _finalize(self) -> None:
        alive = [p for p in await self._pods_of(FINALIZER) if p["status"]["phase"] == "Running"]
        for pod in alive[:1]:
            uid = pod["metadata"]["uid"]
            if self.random.random() < 0.3 and self.kills["finalizer"] < FINALIZER_DEATHS:
                return await self._lose_pod(pod, "finalizer")
            self._finalizer_steps[uid] = self._finalizer_steps.get(uid, 0) + 1
            if self._finalizer_steps[uid] == 2:
                self.world.report_result()
            if self._finalizer_steps[uid] == 3:
                await self._end_pod(pod, 0)
        return None

    # Users

    async def _edit(self) -> None:
        """Suspend, resume, resize; somebody deletes the workers' Job."""
        manifest = await self.world.cluster.get(JOB)
        assert manifest is not None
        if manifest["spec"].get("suspend"):
            await self.world.cluster.edit(JOB, {"spec": {"suspend": False}})
            return
        draw = self.random.random()
        if draw < 0.1:
            await self.world.cluster.edit(JOB, {"spec": {"suspend": True}})
        elif draw < 0.4:
            await self.world.cluster.edit(JOB, {"spec": {"workers": {"parallelism": self.random.randint(1, 3)}}})
        elif draw < 0.5 and await self.world.cluster.get(WORKERS) is not None:
            self.kills["worker Job"] += 1
            await self.world.cluster.delete(WORKERS)

    # What must hold at every moment

    async def _compare(self) -> None:
        job = await self.world.job()
        values = {t.number: t.values[0] for t in self._trials() if t.state.name == "COMPLETE"}
        assert {n: values.get(n) for n in self.completed} == self.completed, "a completed trial was lost or changed"
        assert job.status.trials.completed >= self._told, "the status went backwards"
        assert job.status.trials.completed <= len(values), "the status counts what is not there"
        assert job.status.trials.failed == 0, "a preemption counts as a failure"
        self._told = job.status.trials.completed

    # Small parts

    def _study(self) -> optuna.Study | None:
        """The study, once the operator has made it; opened once, since opening costs more than all the rest."""
        from kubeautoml.study import open_study_storage

        if self._storage is None:
            self._storage = open_study_storage(self.world.url)
        name = study_name(JOB.namespace, JOB.name, "11111111-2222-3333-4444-555555555555")
        try:
            sampler = optuna.samplers.RandomSampler(seed=self.random.randint(0, 2**31))
            return optuna.load_study(storage=self._storage, study_name=name, sampler=sampler)
        except KeyError:
            return None

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        study = self._study()
        return [] if study is None else study.get_trials(deepcopy=False)

    async def _pods_of(self, ref: Ref) -> list[Manifest]:
        component = "worker" if ref == WORKERS else "finalizer"
        return await self.world.cluster.list("Pod", ref.namespace, {"kubeautoml.dev/component": component})

    def _stamp(self) -> str:
        return self.world.now.strftime("%Y-%m-%dT%H:%M:%SZ")
