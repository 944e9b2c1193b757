"""The filter for old servers takes out what they do not know, and nothing else."""

from __future__ import annotations

from real.strip import is_known, strip, strip_status


def test_a_new_server_gets_what_was_written() -> None:
    """Nothing is taken out from 1.30 on."""
    job = {"apiVersion": "batch/v1", "kind": "Job", "spec": {"suspend": True, "podFailurePolicy": {"rules": []}}}

    assert strip(job, (1, 36, 0)) == job
    assert strip_status({"message": ""}, (1, 36, 0)) == {"message": ""}


def test_an_old_server_gets_no_newer_fields() -> None:
    """Fields of Jobs and CEL rules in CRDs go; the manifest itself is left alone."""
    spec = {"suspend": True, "podFailurePolicy": {"rules": []}, "parallelism": 2}
    job = {"apiVersion": "batch/v1", "kind": "Job", "spec": spec}
    schema = {"properties": {"a": {"type": "string", "x-kubernetes-validations": [{"rule": "self != ''"}]}}}
    crd = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": {"schema": schema}}

    assert strip(job, (1, 20, 2))["spec"] == {"parallelism": 2}
    assert strip(crd, (1, 20, 2))["spec"] == {"schema": {"properties": {"a": {"type": "string"}}}}
    assert job["spec"] == {"suspend": True, "podFailurePolicy": {"rules": []}, "parallelism": 2}


def test_kinds_that_came_later_are_told_apart() -> None:
    """policy/v1 came with 1.21, autoscaling/v2 with 1.23."""
    budget = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget"}

    assert not is_known(budget, (1, 20, 2))
    assert is_known(budget, (1, 21, 0))
    assert is_known({"apiVersion": "v1", "kind": "Service"}, (1, 20, 2))


def test_an_old_server_gets_no_empty_strings_in_a_status() -> None:
    """It would turn those in list items into null."""
    status = {"conditions": [{"type": "Ready", "message": ""}], "stage": ""}

    assert strip_status(status, (1, 20, 2)) == {"conditions": [{"type": "Ready"}], "stage": ""}
