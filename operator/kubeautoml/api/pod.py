"""What crosses a pod's edge: the environment that the planner writes and the trainer reads.

`PodJob` is the immutable part of a job, so that edits of the mutable fields never change a pod template; what may change
while pods run (budgets, stop) travels through the study (`trials.StudyLimits`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from kubeautoml.api.dataset import Dataset
from kubeautoml.api.errors import UsageError
from kubeautoml.api.job import AutoMLJob, Output, Task
from kubeautoml.api.metrics import METRICS, Direction, default_metric
from kubeautoml.api.names import ArtifactPaths, Env, study_name
from kubeautoml.api.objective import ModelConstraint, Objective
from kubeautoml.api.search import Search
from kubeautoml.api.values import ApiModel

STORAGE_PATIENCE_SECONDS = 180.0
"""How long a pod waits for an object storage that is away; a guess at what a restart or a fail-over of one takes."""


class PodJob(ApiModel):
    """The immutable part of a job, as JSON in `Env.JOB`."""

    name: str
    namespace: str
    uid: str
    task: Task
    dataset: Dataset
    objective: Objective
    constraints: list[ModelConstraint]
    search: Search
    output: Output

    @classmethod
    def of(cls, job: AutoMLJob) -> PodJob:
        """The part of a job that its pods see."""
        meta, spec = job.metadata, job.spec
        return cls(
            name=meta.name,
            namespace=meta.namespace,
            uid=meta.uid,
            task=spec.task,
            dataset=spec.dataset,
            objective=spec.objective,
            constraints=spec.constraints,
            search=spec.search,
            output=spec.output,
        )

    @property
    def metric(self) -> str:
        """The objective's metric, or the task's default."""
        return self.objective.metric or default_metric(self.task.type, bool(self.task.quantiles))

    @property
    def direction(self) -> Direction:
        return METRICS[self.metric].direction

    @property
    def study_name(self) -> str:
        return study_name(self.namespace, self.name, self.uid)

    @property
    def paths(self) -> ArtifactPaths:
        return ArtifactPaths(self.output.uri, self.namespace, self.name, self.uid)


@dataclass(frozen=True)
class PodContext:
    """Everything a worker or finalizer knows from outside."""

    job: PodJob
    study_url: str
    pod_name: str
    pod_uid: str
    scratch_dir: Path
    threads: int
    train_credentials_dir: Path | None = None
    test_credentials_dir: Path | None = None
    output_credentials_dir: Path | None = None
    study_token_file: Path | None = None
    study_ca_file: Path | None = None
    storage_patience_seconds: float = STORAGE_PATIENCE_SECONDS

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> PodContext:
        """Read the environment that the planner wrote.

        Raises:
            UsageError: a variable is missing or unreadable; the message names it.
        """

        def need(name: Env) -> str:
            if not env.get(name):
                raise UsageError(f"environment variable {name.value} must be set; the operator sets it for its pods")
            return env[name]

        def path(name: Env) -> Path | None:
            return Path(env[name]) if env.get(name) else None

        try:
            job = PodJob.model_validate_json(need(Env.JOB))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(p) for p in first["loc"])
            raise UsageError(f"environment variable {Env.JOB.value} is not a job: {where}: {first['msg']}") from error
        return cls(
            job=job,
            study_url=need(Env.STUDY_URL),
            pod_name=need(Env.POD_NAME),
            pod_uid=need(Env.POD_UID),
            scratch_dir=Path(need(Env.SCRATCH_DIR)),
            threads=max(1, int(env.get(Env.THREADS) or 1)),
            train_credentials_dir=path(Env.TRAIN_CREDENTIALS_DIR),
            test_credentials_dir=path(Env.TEST_CREDENTIALS_DIR),
            output_credentials_dir=path(Env.OUTPUT_CREDENTIALS_DIR),
            study_token_file=path(Env.STUDY_TOKEN_FILE),
            study_ca_file=path(Env.STUDY_CA_FILE),
            storage_patience_seconds=float(env.get(Env.STORAGE_PATIENCE_SECONDS) or STORAGE_PATIENCE_SECONDS),
        )
