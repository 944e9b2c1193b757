"""The AutoMLModel over its life: what its status says, whom it belongs to, and what becomes of it when others act."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from factories import NOON, make_finished_trial, make_job, make_result, make_summary
from kubeautoml.api.model import AutoMLModelStatus
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.api.trials import JobResult, VariantFacts
from kubeautoml.plan.model import condition_of, model_object, orphan_condition
from kubeautoml.plan.status import true
from plan.carry import Stage


def finished(result: JobResult | None = None, **spec: Any) -> Stage:
    stage = Stage(make_job(**{"budget": {"maxTrials": 1}, **spec}))
    stage.settle()
    stage.study = make_summary(
        best=[make_finished_trial()],
        result=result or make_result(),
        limits=stage.study.limits if stage.study else None,
    )
    stage.settle()
    return stage


def model_of(stage: Stage) -> Manifest:
    return next(m for ref, m in stage.children.items() if ref.kind == "AutoMLModel")


def ready(stage: Stage) -> str:
    (condition,) = model_of(stage)["status"]["conditions"]
    assert condition["type"] == "Ready"
    return f"{condition['status']} {condition['reason']}"


def servers_answer(stage: Stage) -> None:
    ref = next(r for r in stage.children if r.kind == "Deployment")
    status = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
    stage.children[ref] = {**stage.children[ref], "status": status}


def test_a_model_says_whether_something_answers_with_it() -> None:
    """Deploying, served, and stored again when serving is taken away."""
    stage = finished(serving={})
    assert ready(stage) == "Unknown Deploying"

    servers_answer(stage)
    stage.settle()
    assert ready(stage) == "True Served"

    stage.edit(budget={"maxTrials": 1})
    stage.settle()
    assert ready(stage) == "True Stored"


def test_a_model_that_misses_its_gate_says_so() -> None:
    stage = finished(serving={"gate": {"metric": "RocAuc", "min": "0.99"}})

    assert ready(stage) == "False GateNotPassed"


VARIANTS = (VariantFacts("Quality", 0.91, 12.34, 80_000_000, 99.6), VariantFacts("Fast", 0.9, None, 1_000_000, 3.2))
BOTH: dict[str, Any] = {"uri": "s3://models", "variants": ["Quality", "Fast"]}


def server_args(stage: Stage) -> list[str]:
    deployment = next(m for ref, m in stage.children.items() if ref.kind == "Deployment")
    return list(deployment["spec"]["template"]["spec"]["containers"][0]["args"])


def test_the_model_and_the_job_show_what_each_variant_reaches_and_costs() -> None:
    """Decimals as text; what was not measured is left out."""
    stage = finished(make_result(variants=VARIANTS), output=BOTH)

    expected = [
        {"name": "Quality", "value": "0.91", "latencyP50Ms": "12.3", "sizeBytes": 80_000_000, "fitSeconds": 100},
        {"name": "Fast", "value": "0.9", "sizeBytes": 1_000_000, "fitSeconds": 3},
    ]
    assert model_of(stage)["spec"]["variants"] == expected
    assert stage.job.status.to_manifest()["model"]["variants"] == expected


def test_an_edit_of_the_variant_rolls_the_server() -> None:
    """The pod template changes, and with it the pods; without a choice the bundle's first answers."""
    stage = finished(make_result(variants=VARIANTS), output=BOTH, serving={})
    assert server_args(stage) == ["serve"]

    stage.edit(output=BOTH, serving={"variant": "Fast"})
    stage.settle()

    assert server_args(stage) == ["serve", "--variant", "Fast"]


def test_the_gate_looks_at_the_variant_that_answers() -> None:
    """The ensemble passes, the fast model does not."""
    gate = {"metric": "RocAuc", "min": "0.905"}
    quality = finished(make_result(variants=VARIANTS), output=BOTH, serving={"gate": gate})
    fast = finished(make_result(variants=VARIANTS), output=BOTH, serving={"gate": gate, "variant": "Fast"})

    assert ready(quality) == "Unknown Deploying"
    assert ready(fast) == "False GateNotPassed"


def test_what_somebody_wrote_into_its_status_is_put_right() -> None:
    """Nonsense is replaced; what is right stays, its time included."""
    stage = finished()
    ref = Ref.of(model_of(stage))
    right = model_of(stage)["status"]
    for odd in ({"conditions": 3}, {"conditions": [{"type": "Ready"}]}, {}, {"observedGeneration": "x"}):
        stage.children[ref] = {**stage.children[ref], "status": odd}

        stage.settle()

        assert model_of(stage)["status"] == right, odd


@pytest.mark.parametrize(("before", "after"), [("Retain", "Delete"), ("Delete", "Retain")])
def test_whether_it_goes_with_its_job_may_be_edited(before: str, after: str) -> None:
    """Also long after the end; its spec is not touched."""
    stage = finished(retention={"model": before})
    spec = model_of(stage)["spec"]

    stage.edit(budget={"maxTrials": 1}, retention={"model": after})
    (apply,) = [m for p in [stage.look()] for m in p.apply]
    stage.children[Ref.of(apply)] = {**apply, "status": model_of(stage)["status"]}

    assert [o["kind"] for o in apply["metadata"].get("ownerReferences", [])] == (
        ["AutoMLJob"] if after == "Delete" else []
    )
    assert apply["spec"] == spec
    stage.settle()
    assert model_of(stage)["metadata"].get("ownerReferences", []) == apply["metadata"].get("ownerReferences", [])


def test_a_model_that_somebody_deleted_is_not_made_again() -> None:
    """Who deletes it means it; the endpoint goes on, and the job still says where the bundle is."""
    stage = finished(serving={})
    servers_answer(stage)
    stage.settle()
    del stage.children[Ref.of(model_of(stage))]

    passes = stage.settle()

    assert passes == []
    assert stage.conditions()["Ready"] == "True Serving"
    assert stage.job.status.model is not None


def test_a_model_whose_job_is_gone_says_that_it_is_only_stored() -> None:
    """Once; after that nothing is written."""
    model = model_object(make_job(), make_result())
    served = condition_of(model, true("Serving", "1 of 1 servers ready"), NOON)
    assert served is not None
    model["status"] = served.model_dump(mode="json", by_alias=True)

    status = orphan_condition(model, NOON)

    assert status is not None
    (condition,) = status.conditions
    assert (condition.status, condition.reason) == ("True", "Stored")
    assert "its job is gone" in condition.message
    model["status"] = status.model_dump(mode="json", by_alias=True)
    assert orphan_condition(model, NOON) is None


def test_lineage_names_job_data_and_code() -> None:
    spec = model_object(make_job(), make_result())["spec"]

    assert spec["lineage"] == {
        "jobName": "churn",
        "jobUid": "11111111-2222-3333-4444-555555555555",
        "dataSha256": "a" * 64,
        "trials": 4,
        "members": ["LightGBM", "Linear"],
        "codeVersion": "0.1.0",
    }
    assert (spec["sha256"], spec["metrics"]) == ("b" * 64, {"RocAuc": "0.91", "Accuracy": "0.85"})


@pytest.mark.parametrize(
    "odd",
    [
        {"sha256": "x"},
        {"metrics": {"RocAuc": float("nan")}},
        {"finished_at": float("inf")},
        {"size_bytes": -1},
        {"members": ("a",) * 99},
    ],
)
def test_a_result_that_no_finalizer_would_write_fails_the_job(odd: dict[str, Any]) -> None:
    """Pods write the study, so it may hold anything; the operator goes on."""
    stage = Stage(make_job())
    stage.settle()
    stage.study = replace(stage.study or make_summary(), result=make_result(**odd))

    stage.settle()

    assert stage.conditions()["Succeeded"] == "False FinalizeFailed"
    assert "the finalizer's result cannot be used" in stage.message("Succeeded")


def test_a_first_status_is_written_with_the_model() -> None:
    """No second pass is needed for it."""
    assert AutoMLModelStatus.model_validate(model_of(finished())["status"]).observed_generation == 1
