"""The smallest valid thing of every kind that tests talk about, changed by keyword.

Times are relative to `NOON`. Specs are given as in YAML (camelCase), one keyword a field of `spec`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from kubeautoml.api.form import parse_job
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.job_status import AutoMLJobStatus
from kubeautoml.api.names import Component, Env
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.api.pod import PodContext
from kubeautoml.api.profile import AutoMLProfile
from kubeautoml.api.trials import DataFacts, FinishedTrial, JobResult, RunningTrial, StudyLimits, StudySummary
from kubeautoml.plan.base import Observed, PodSeen, Settings

UID = "11111111-2222-3333-4444-555555555555"
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
SETTINGS = Settings(study_url="grpc://study:9090")


def as_written(name: str = "churn", **spec: Any) -> Manifest:
    """An AutoMLJob as a user wrote it, the smallest that is valid."""
    return {
        "apiVersion": "kubeautoml.dev/v1alpha1",
        "kind": "AutoMLJob",
        "metadata": {"name": name},
        "spec": {
            "task": {"type": "TabularClassification", "target": "churned"},
            "dataset": {"train": {"uri": "s3://lake/churn.csv"}},
            "output": {"uri": "s3://models"},
            **spec,
        },
    }


def make_manifest(
    *, name: str = "churn", namespace: str = "team-a", uid: str = UID, generation: int = 1, **spec: Any
) -> Manifest:
    """An AutoMLJob as a user wrote it and the API server holds it."""
    metadata = {"name": name, "namespace": namespace, "uid": uid, "generation": generation}
    return {**as_written(name, **spec), "metadata": metadata}


def make_job(
    *, parallelism: int | None = None, status: AutoMLJobStatus | None = None, generation: int = 1, **spec: Any
) -> AutoMLJob:
    """The same as a value; `parallelism` is short for workers."""
    if parallelism is not None:
        spec["workers"] = {**spec.get("workers", {}), "parallelism": parallelism}
    job = parse_job(make_manifest(generation=generation, **spec))
    return job.model_copy(update={"status": status or AutoMLJobStatus()})


def env_of(context: PodContext) -> dict[str, str]:
    """The environment that says this to a worker or finalizer."""
    return {
        Env.JOB.value: context.job.model_dump_json(by_alias=True),
        Env.STUDY_URL.value: context.study_url,
        Env.POD_NAME.value: context.pod_name,
        Env.POD_UID.value: context.pod_uid,
        Env.SCRATCH_DIR.value: str(context.scratch_dir),
        Env.THREADS.value: str(context.threads),
    }


def make_profile(name: str = "default", **spec: Any) -> AutoMLProfile:
    return AutoMLProfile.model_validate({"metadata": {"name": name}, "spec": spec})


def make_observed(
    *,
    children: Iterable[Manifest] = (),
    pods: Iterable[PodSeen] = (),
    running: Iterable[RunningTrial] = (),
    study: StudySummary | None = None,
    **other: Any,
) -> Observed:
    """What was seen; `running` is short for a study with these trials running."""
    trials = tuple(running)
    if trials:
        study = make_summary(running=len(trials), running_trials=trials)
    return Observed(children={Ref.of(m): m for m in children}, pods=tuple(pods), study=study, **other)


def make_pod(uid: str = "pod-1", component: str = Component.WORKER, phase: str = "Running", **fields: Any) -> PodSeen:
    return PodSeen(name=f"{uid}-name", uid=uid, component=component, phase=phase, **fields)


def make_running_trial(
    number: int = 0, pod_uid: str = "pod-1", attempt: int = 1, started_at: float | None = None
) -> RunningTrial:
    """A trial that began a minute before noon."""
    return RunningTrial(number, pod_uid, attempt, NOON.timestamp() - 60 if started_at is None else started_at)


make_trial = make_running_trial


def make_finished_trial(number: int = 0, value: float = 0.8, **fields: Any) -> FinishedTrial:
    given = {"family": "Linear", "parameters": {"alpha": 0.1}, "duration_seconds": 2.0, **fields}
    return FinishedTrial(number=number, value=value, **given)


def make_limits(**fields: Any) -> StudyLimits:
    return StudyLimits(**{"max_trials": 100, "max_failed_trials": 10, **fields})


def make_data(**fields: Any) -> DataFacts:
    given = {"rows": 800, "columns": 9, "holdout_rows": 200, "folds": 5, "classes": 2, "sha256": "a" * 64, **fields}
    return DataFacts(**given)


def make_result(**fields: Any) -> JobResult:
    """A model finished at noon."""
    given = {
        "model_uri": f"s3://models/team-a/churn/{UID}/model",
        "sha256": "b" * 64,
        "size_bytes": 1000,
        "metrics": {"RocAuc": 0.91, "Accuracy": 0.85},
        "members": ("LightGBM", "Linear"),
        "trials": 4,
        "data_sha256": "a" * 64,
        "finished_at": NOON.timestamp(),
        "code_version": "0.1.0",
        **fields,
    }
    return JobResult(**given)


def make_summary(*, best: Iterable[FinishedTrial] = (), **fields: Any) -> StudySummary:
    """A study; `best` are counted as completed unless `completed` says otherwise."""
    trials = tuple(best)
    return StudySummary(**{"best": trials, "completed": len(trials), **fields})


def with_batch_condition(job: Manifest, kind: str) -> Manifest:
    """A batch Job that is Complete or Failed."""
    return {**job, "status": {"conditions": [{"type": kind, "status": "True"}]}}
