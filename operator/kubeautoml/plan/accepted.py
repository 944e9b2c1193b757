"""The spec that is carried out: the present one, or, while that breaks a rule, the last one that did not.

An illegal edit is told in a condition and changes nothing of what runs: trials are still retired and repeated, budgets end
the search, the model is made and served, by the spec as it was last accepted. Only `suspend` is always the user's: a job
must be stoppable whatever else is wrong with it.
"""

from __future__ import annotations

import json

from pydantic import ValidationError

from kubeautoml.api.check import check_job
from kubeautoml.api.conditions import ConditionStatus, Reason, find_condition
from kubeautoml.api.job import AutoMLJob, AutoMLJobSpec
from kubeautoml.api.job_status import MAX_ACCEPTED_SPEC
from kubeautoml.api.problems import Problem
from kubeautoml.plan.base import Observed
from kubeautoml.plan.facts import C

EDITABLE = ("profile_ref", "budget", "workers", "serving", "retention")
"""What may be edited, without `suspend`."""


def accepted_text(job: AutoMLJob) -> str | None:
    """What status.acceptedSpec says of a job that breaks no rule; None when it would be too long to keep."""
    part = job.spec.model_dump(mode="json", by_alias=True, include=set(EDITABLE), exclude_defaults=True)
    text = json.dumps(part, separators=(",", ":"), sort_keys=True)
    return text if len(text) <= MAX_ACCEPTED_SPEC else None


def last_accepted(job: AutoMLJob) -> AutoMLJob | None:
    """The job as it was last accepted; None when it never was."""
    part = accepted_part(job.status.accepted_spec)
    if part is None:
        return None
    whole = job.spec.to_manifest()
    names = [AutoMLJobSpec.model_fields[name].alias or name for name in EDITABLE]
    kept = {k: v for k, v in whole.items() if k not in names}
    try:
        spec = AutoMLJobSpec.model_validate({**kept, **part})
    except ValidationError:
        return None
    return job.model_copy(update={"spec": spec})


def accepted_part(text: str | None) -> dict[str, object] | None:
    """The JSON of status.acceptedSpec; None for what somebody else may have written there."""
    try:
        part = json.loads(text) if text else None
    except ValueError:
        return None
    return part if isinstance(part, dict) else None


def profile_problem(job: AutoMLJob, observed: Observed) -> Problem | None:
    """What is wrong with the job's profile, if something is."""
    name, path = job.spec.profile_ref.name, "spec.profileRef.name"
    if observed.profile_error is not None:
        return Problem(path, "must name a valid profile", name, observed.profile_error, Reason.PROFILE_INVALID)
    if observed.profile_missing:
        message = f"{path}: AutoMLProfile '{name}' does not exist; ask the platform team for its name"
        return Problem(path, "must exist", name, message, Reason.PROFILE_NOT_FOUND)
    return None


def spec_problem(job: AutoMLJob, observed: Observed) -> Problem | None:
    """What is wrong with the job. Limits hold when a job comes or is edited: one that was accepted stays so."""
    if observed.spec_problem is not None:
        return observed.spec_problem
    if is_accepted(job):
        return None
    return profile_problem(job, observed) or next(iter(check_job(job, observed.profile)), None)


def is_accepted(job: AutoMLJob) -> bool:
    """Whether the present spec has been accepted."""
    said = find_condition(job.status.conditions, C.ACCEPTED)
    if said is None or said.status is not ConditionStatus.TRUE:
        return False
    return said.observed_generation == job.metadata.generation
