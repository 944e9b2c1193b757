"""The AutoMLModel: one immutable version of a model, where it came from, and whether something answers with it.

It outlives its job unless retention.model says otherwise, which may be edited at any time. Who deletes it means it: it is not
made again, its endpoint goes on, and the job still says where the bundle is.
"""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import ValidationError

from kubeautoml.api.conditions import Condition, ConditionType, Reason, set_condition
from kubeautoml.api.job import AutoMLJob, DeletionPolicy
from kubeautoml.api.job_status import ModelStatus, VariantStatus
from kubeautoml.api.kinds import ObjectMeta
from kubeautoml.api.model import AutoMLModel, AutoMLModelSpec, AutoMLModelStatus, Lineage
from kubeautoml.api.names import Component, labels, model_name
from kubeautoml.api.objects import Manifest
from kubeautoml.api.trials import JobResult
from kubeautoml.plan.pods import owner
from kubeautoml.plan.status import MAX_MESSAGE, Fact, clipped, true

MODEL_VERSION = "v1"
"""A job makes one model; its immutable part cannot change, so there is no second version yet."""

_WORD = {Reason.SERVING: Reason.SERVED, Reason.MODEL_STORED: Reason.STORED}
"""How a job's reason reads on its model; the others read the same."""


def number_text(value: float) -> str:
    """A decimal string, as the contract has them: six significant digits are more than a metric means."""
    return format(value, ".6g")


def model_object(job: AutoMLJob, result: JobResult) -> Manifest:
    """The AutoMLModel. It outlives the job unless the job says otherwise."""
    meta, spec = job.metadata, job.spec
    model = AutoMLModel(
        metadata=ObjectMeta(name=model_name(meta.name, meta.uid, MODEL_VERSION), namespace=meta.namespace),
        spec=AutoMLModelSpec(
            version=MODEL_VERSION,
            task_type=spec.task.type,
            target=spec.task.target,
            uri=result.model_uri,
            secret_ref=spec.output.secret_ref,
            sha256=result.sha256,
            size_bytes=result.size_bytes,
            metrics={k: number_text(v) for k, v in result.metrics.items()},
            variants=variants_of(result),
            created_at=datetime.fromtimestamp(int(result.finished_at), UTC),
            lineage=Lineage(
                job_name=meta.name,
                job_uid=meta.uid,
                data_sha256=result.data_sha256,
                trials=result.trials,
                members=result.members,
                code_version=result.code_version,
            ),
        ),
    ).to_manifest()
    model["metadata"]["labels"] = model_labels(job)
    if spec.retention.model is DeletionPolicy.DELETE:
        model["metadata"]["ownerReferences"] = owner(job)
    return model


def model_labels(job: AutoMLJob) -> dict[str, str]:
    """Those of every child but the one by which Argo CD tracks what it has applied.

    An object without an owner, with the name of an Argo CD application in that label, and not in Git, would be pruned: a model
    would be lost when an application is named like its job.
    """
    given = labels(job.metadata.name, job.metadata.uid, Component.MODEL)
    return {name: value for name, value in given.items() if name != "app.kubernetes.io/instance"}


def model_status(job: AutoMLJob, result: JobResult) -> ModelStatus:
    """status.model."""
    return ModelStatus(
        name=model_name(job.metadata.name, job.metadata.uid, MODEL_VERSION),
        version=MODEL_VERSION,
        uri=result.model_uri,
        sha256=result.sha256,
        metrics={k: number_text(v) for k, v in result.metrics.items()},
        variants=variants_of(result),
    )


def variants_of(result: JobResult) -> tuple[VariantStatus, ...]:
    """The forms of the model, as the status and the AutoMLModel show them."""
    return tuple(
        VariantStatus(
            name=v.name,
            value=None if v.value is None else number_text(v.value),
            latency_p50_ms=None if v.latency_p50_ms is None else format(v.latency_p50_ms, ".3g"),
            size_bytes=v.size_bytes,
            fit_seconds=round(v.fit_seconds),
        )
        for v in result.variants
    )


def kept_as_wished(job: AutoMLJob, found: Manifest) -> tuple[Manifest, ...]:
    """The model with the owner that retention.model asks for; nothing if it is so already. Its spec stays as it was found."""
    wanted = owner(job) if job.spec.retention.model is DeletionPolicy.DELETE else []
    has = [o for o in found["metadata"].get("ownerReferences", []) if o.get("uid") == job.metadata.uid]
    if bool(wanted) == bool(has):
        return ()
    metadata = {
        "name": found["metadata"]["name"],
        "namespace": found["metadata"]["namespace"],
        "labels": model_labels(job),
        **({"ownerReferences": wanted} if wanted else {}),
    }
    model: Manifest = {"apiVersion": found["apiVersion"], "kind": found["kind"], "metadata": metadata}
    return ({**model, "spec": found["spec"]},)


def condition_of(found: Manifest | None, fact: Fact, now: datetime) -> AutoMLModelStatus | None:
    """The status of a model whose job says this of its endpoint; None when it says so already.

    Ready is true when somebody can use the model as the job asked for: a server answers with it, or it is stored and nobody
    asked for a server.
    """
    meta = (found or {}).get("metadata", {})
    old = _status_in(found or {})
    generation = int(meta.get("generation", 1))
    condition = Condition(
        type=ConditionType.READY,
        status=fact.status,
        reason=_WORD.get(Reason(fact.reason), fact.reason),
        message=clipped(fact.message, MAX_MESSAGE),
        last_transition_time=now.replace(microsecond=0),
        observed_generation=generation,
    )
    conditions = set_condition((), condition) if old is None else set_condition(old.conditions, condition)
    new = AutoMLModelStatus(observed_generation=generation, conditions=conditions)
    return None if new == old else new


def orphan_condition(found: Manifest, now: datetime) -> AutoMLModelStatus | None:
    """The status of a model whose job is gone, and with it the endpoint."""
    uri = found.get("spec", {}).get("uri", "")
    words = f"its job is gone, and with it the endpoint; the model stays at {uri}: kubeautoml serve --model {uri}"
    return condition_of(found, true(Reason.MODEL_STORED, words), now)


def _status_in(found: Manifest) -> AutoMLModelStatus | None:
    """What the model's status says; None for one that somebody else has written, which is then replaced."""
    try:
        return AutoMLModelStatus.model_validate(found.get("status", {}))
    except ValidationError:
        return None
