"""Every object that a job would bring about, over its whole life: the planner asked at a few made-up moments."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from kubeautoml.api.errors import ManifestError
from kubeautoml.api.form import parse_job
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.api.pod import PodJob
from kubeautoml.api.profile import AutoMLProfile
from kubeautoml.api.trials import DataFacts, JobResult, StudySummary
from kubeautoml.plan.base import Observed, Settings
from kubeautoml.plan.budget import limits_of
from kubeautoml.plan.plan import plan

UID = "00000000-0000-0000-0000-000000000000"
"""In place of what the API server would give; stands in names, labels and paths."""

DIGEST = "0" * 64
DAWN = datetime(2000, 1, 1, tzinfo=UTC)


def preview(manifest: Manifest, profile: AutoMLProfile | None, settings: Settings) -> list[Manifest]:
    """Objects in the order in which they would be applied.

    Raises:
        ManifestError: the manifest breaks a rule, so that nothing would be applied.
    """
    job = parse_job(manifest)
    meta = job.metadata
    job = job.model_copy(update={"metadata": meta.model_copy(update={"uid": meta.uid or UID})})
    found: dict[Ref, Manifest] = {}
    for study in _moments(job):
        observed = Observed(profile=profile, children=dict(found), study=study)
        todo = plan(job, observed, now=DAWN, settings=settings)
        refused = next((c for c in todo.status.conditions if c.type == "Accepted" and c.status == "False"), None)
        if refused is not None:
            raise ManifestError(refused.message, reason=refused.reason)
        found.update((Ref.of(m), m) for m in todo.apply)
        job = job.model_copy(update={"status": todo.status})
    return list(found.values())


def _moments(job: AutoMLJob) -> list[StudySummary | None]:
    """Nothing yet; the search has been stopped and its workers have left; the model is there."""
    facts = DataFacts(rows=1, columns=1, holdout_rows=1, folds=2, classes=None, sha256=DIGEST)
    stopped = _stopped(job)
    result = JobResult(
        model_uri=PodJob.of(job).paths.model,
        sha256=DIGEST,
        size_bytes=0,
        metrics={},
        members=(),
        trials=0,
        data_sha256=DIGEST,
        finished_at=DAWN.timestamp(),
        code_version="",
    )
    return [None, replace(stopped, data=facts), replace(stopped, data=facts, result=result)]


def _stopped(job: AutoMLJob) -> StudySummary:
    """A study whose search has been told to stop, with one completed trial."""
    limits = limits_of(job, DAWN, 0.0)
    return StudySummary(
        completed=1, exhausted=True, limits=replace(limits, stop=True, search_deadline=DAWN.timestamp())
    )
