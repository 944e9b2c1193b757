"""What must hold once every job has ended, checked against the database, the bucket and the API server."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chaos.observer import TrialRow, condition, study_of
from chaos.world import World, table
from kubeautoml.api.trials import MAX_ATTEMPTS
from real.rest import Json

KEPT_TRIALS = 5
"""spec.retention.keepTrialArtifacts by default."""


@dataclass(frozen=True)
class Ended:
    """One job at its end, and its trials."""

    job: Json
    trials: dict[int, TrialRow]

    @property
    def name(self) -> str:
        return study_of(self.job).rpartition("/")[0]

    def count(self, state: str) -> int:
        return sum(t.state == state for t in self.trials.values())

    @property
    def preempted(self) -> list[TrialRow]:
        return [t for t in self.trials.values() if t.is_preempted]


def counted_twice(ended: Ended) -> list[str]:
    """Attempts of one trial of which more than one counts, or more than one follows."""
    found = []
    for number, times in Counter(t.attrs["retry_of"] for t in ended.trials.values() if "retry_of" in t.attrs).items():
        if times > 1:
            found.append(f"{ended.name}: trial {number} was queued again {times} times")
    entries = Counter(
        t.attrs["portfolio"] for t in ended.trials.values() if t.state == "COMPLETE" and "portfolio" in t.attrs
    )
    found += [f"{ended.name}: portfolio entry {n} completed {times} times" for n, times in entries.items() if times > 1]
    for trial in ended.trials.values():
        before = ended.trials.get(trial.attrs.get("retry_of", -1))
        if trial.state == "COMPLETE" and before is not None and not before.is_preempted:
            found.append(f"{ended.name}: trial {trial.number} repeats trial {before.number}, which is {before.state}")
    return found


def problems(ended: Ended) -> Iterator[str]:
    """Everything that is wrong with one job's end, as far as its status and the database tell."""
    job, name = ended.job, ended.name
    status = job.get("status", {})
    if condition(job, "Succeeded") != "True":
        yield f"{name} is stuck: {json.dumps(status)[:1500]}"
        return
    counts = status["trials"]
    told = {k: counts.get(k, 0) for k in ("completed", "pruned", "failed", "preempted", "running")}
    real = {
        "completed": ended.count("COMPLETE"),
        "pruned": ended.count("PRUNED"),
        "failed": ended.count("FAIL") - len(ended.preempted),
        "preempted": len(ended.preempted),
        "running": ended.count("RUNNING"),
    }
    if told != real:
        yield f"{name}: the status counts {told}, the database {real}"
    if real["failed"] or real["running"]:
        yield f"{name}: {real['failed']} trials failed and {real['running']} run at the end"
    budget, spent = job["spec"]["budget"]["maxTrials"], real["completed"] + real["pruned"] + real["failed"]
    if spent != budget:
        yield f"{name}: {spent} trials count, and budget.maxTrials is {budget}"
    followed = {t.attrs.get("retry_of") for t in ended.trials.values()}
    for trial in ended.preempted:
        attempt, has_next = trial.attrs.get("attempt", 1), trial.number in followed
        if has_next != (attempt < MAX_ATTEMPTS):
            yield f"{name}: preempted trial {trial.number}, attempt {attempt}, has {'a' if has_next else 'no'} next attempt"


def leftovers(world: World, jobs: list[Json]) -> Iterator[str]:
    """Pods that still run for a job that has ended, and objects of jobs that nobody knows."""
    uids = {job["metadata"]["uid"] for job in jobs}
    for namespace in world.namespaces:
        for pod in world.plane.admin.items(f"/api/v1/namespaces/{namespace}/pods"):
            labels = pod["metadata"].get("labels", {})
            training = labels.get("kubeautoml.dev/component") in ("worker", "finalizer")
            if training and pod["status"]["phase"] in ("Pending", "Running"):
                yield f"pod {namespace}/{pod['metadata']['name']} is {pod['status']['phase']} though its job has ended"
        for batch in world.plane.admin.items(f"/apis/batch/v1/namespaces/{namespace}/jobs"):
            if batch["metadata"]["labels"]["kubeautoml.dev/job-uid"] not in uids:
                yield f"Job {namespace}/{batch['metadata']['name']} belongs to no AutoMLJob"


def model_problems(world: World, ended: Ended, folder: Path) -> Iterator[str]:
    """The model object, the bundle it names, and what the best trials left in the bucket."""
    import pandas as pd

    from kubeautoml.api.errors import KubeAutoMLError
    from kubeautoml.storage import open_store
    from kubeautoml_trainer.bundle import load_bundle

    meta, said = ended.job["metadata"], ended.job["status"]["model"]
    path = f"/apis/kubeautoml.dev/v1alpha1/namespaces/{meta['namespace']}/automlmodels/{said['name']}"
    stored = world.plane.admin.find(path)
    if stored is None or (stored["spec"]["uri"], stored["spec"]["sha256"]) != (said["uri"], said["sha256"]):
        yield f"{ended.name}: the AutoMLModel is not what the status says: {stored} and {said}"
        return
    keys = world.s3.server.write_credentials(folder / "keys")
    try:
        model = load_bundle(said["uri"], credentials_dir=keys, sha256=said["sha256"])
        rows = pd.DataFrame(table()).drop(columns="good")
        if len(model.predict(rows)) != len(rows):
            yield f"{ended.name}: the model does not predict every row"
    except KubeAutoMLError as error:
        yield f"{ended.name}: the model cannot be loaded: {error}"
    store = open_store("s3://models/", keys)
    complete = [t for t in ended.trials.values() if t.state == "COMPLETE" and t.value is not None]
    for trial in sorted(complete, key=lambda t: (-(t.value or 0.0), t.number))[:KEPT_TRIALS]:
        uri = f"s3://models/chaos/{study_of(ended.job)}/trials/{trial.number}/trial.json"
        if not store.exists(uri):
            yield f"{ended.name}: {uri} is not there, and trial {trial.number} is complete"
        elif abs(json.loads(store.read(uri))["value"] - (trial.value or 0.0)) > 1e-9:
            yield f"{ended.name}: {uri} does not say {trial.value}"
