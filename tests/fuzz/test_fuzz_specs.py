"""Ten thousand specs through the operator's whole pass: it never falls over, and each is accepted or refused in words.

`KUBEAUTOML_FUZZ_EXAMPLES=10000` (or `make fuzz`) runs them all; the suite runs fewer, always the same ones.
"""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from factories import UID
from fuzz.fuzz_operator import JOB, Operator
from fuzz.fuzz_specs import good_specs, jobs, places, profiles, schema_of, specs, statuses
from kubeautoml.api.conditions import Condition, ConditionStatus, Reason, find_condition
from kubeautoml.api.form import problems
from kubeautoml.api.job_status import AutoMLJobStatus
from kubeautoml.api.objects import EventOrder, Manifest, Ref
from kubeautoml.controller.observe import parse_status
from security.pod_security import violations

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

EXAMPLES = int(os.environ.get("KUBEAUTOML_FUZZ_EXAMPLES", "1500"))


def fuzz(examples: int) -> Any:
    """Always the same examples; those of a failure are found again without a database."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        print_blob=True,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


async def status_of(operator: Operator, ref: Ref = JOB) -> AutoMLJobStatus:
    manifest = await operator.cluster.get(ref)
    assert manifest is not None
    return AutoMLJobStatus.model_validate(manifest["status"])


def accepted(status: AutoMLJobStatus) -> Condition:
    said = find_condition(status.conditions, "Accepted")
    assert said is not None, f"nothing was said: {status.conditions}"
    return said


PATH = re.compile(r"\b(?:spec|metadata)(?:[.\[][^\s,;:]+)?|^\S+|the manifest")


def complaints(message: str, given: Any) -> list[str]:
    """What is wrong with a message of refusal; empty for a good one: one line that names field, rule and value."""
    found = []
    if not message.strip() or len(message) >= 1024 or not message.isprintable():
        found.append("must be one printable line of less than 1,024 characters")
    for word in ("pydantic", "Traceback", "ValidationError", "validation error", "0x7f"):
        if word in message:
            found.append(f"must not speak of {word}")
    if not any(exists(p, kind, given) for p in PATH.findall(message) for kind in ("AutoMLJob", "AutoMLProfile")):
        found.append("must name a field")
    if not re.search(r"\bmust\b|is required|is not a field|does not exist", message):
        found.append("must name the rule")
    if not re.search(r"\bgot\b|is required|is not a field|does not exist", message):
        found.append("must name the value")
    return found


def exists(path: str, kind: str, given: Any) -> bool:
    """Whether a path stands in the schema, or is a place of what was given."""
    if path in ("the manifest", "spec", "metadata.name") or path.rstrip(":") in spelled_places(given):
        return True
    schema = schema_of(kind)
    for name in (p for p in re.split(r"[.\[\]:]+", path) if p and not p.isdecimal()):
        while schema.get("type") == "array":
            schema = schema["items"]
        if "additionalProperties" in schema:
            return True  # the rest is a key, which may hold dots: limits.nvidia.com/gpu
        if name not in schema.get("properties", {}):
            return False
        schema = schema["properties"][name]
    return path.startswith("spec")


def spelled_places(given: Any) -> set[str]:
    """Every place in a manifest, spelled as messages do, up to the first blank, where the reading of paths ends."""
    spelled = set()
    for place in places(given):
        path = ""
        for part in place:
            path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
        spelled.add((path.split() or [""])[0])
    return spelled


@fuzz(EXAMPLES)
@given(jobs(), st.none() | profiles)
def test_every_spec_is_accepted_or_refused_in_words(job: dict[str, Any], profile: Any) -> None:
    """Whatever somebody writes: no exception, a condition, little time, children only of what is accepted, all pods restricted,
    and no object that an API server would find too large."""
    lived = run(life_of(job, profile))

    assert lived.said.status in (ConditionStatus.TRUE, ConditionStatus.FALSE)
    if lived.said.status is ConditionStatus.FALSE:
        assert complaints(lived.said.message, {**job, "profile": profile}) == [], lived.said.message
        assert lived.children == {}
        assert find_condition(lived.conditions, "Stalled").status is ConditionStatus.TRUE  # type: ignore[union-attr]
    for condition in lived.conditions:
        assert condition.reason in list(Reason)
        assert condition.message.isprintable() and len(condition.message) < 1024, condition.message
    for event in lived.events:
        assert event.message.isprintable() and len(event.message) <= 1024, event
    for child in lived.children.values():
        if child["kind"] in ("Job", "Deployment"):
            assert violations(child["spec"]["template"]) == []
            assert child["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


@dataclass(frozen=True)
class Lived:
    """What is left of a job's life. said: whether it was accepted, and why."""

    said: Condition
    conditions: tuple[Condition, ...]
    events: tuple[EventOrder, ...]
    children: dict[Ref, Manifest]


async def life_of(job: dict[str, Any], profile: Any) -> Lived:
    operator, ref = Operator(), Ref.of(job)
    if profile is not None:
        metadata = {"name": "default"}
        await operator.cluster.put(
            {"apiVersion": "kubeautoml.dev/v1alpha1", "kind": "AutoMLProfile", "metadata": metadata, "spec": profile}
        )
    await operator.cluster.put(job)

    await operator.live(ref)

    status = await status_of(operator, ref)
    events = tuple(emitted.event for emitted in operator.cluster.events)
    return Lived(accepted(status), status.conditions, events, await operator.children())


@fuzz(EXAMPLES // 5)
@given(st.sampled_from(good_specs()), specs)
def test_an_edit_to_anything_leaves_what_runs_or_is_accepted(good: dict[str, Any], edited: Any) -> None:
    """A job that was accepted keeps its workers, whatever its spec is edited to; and what was refused can be put right again."""
    operator, whole = Operator(), {"apiVersion": "kubeautoml.dev/v1alpha1", "kind": "AutoMLJob"}
    whole["metadata"] = {"name": "churn", "namespace": "team-a", "uid": UID}

    first, before = run(applied(operator, {**whole, "spec": good}))
    said, after = run(applied(operator, {**whole, "spec": edited}))
    again, _ = run(applied(operator, {**whole, "spec": good}))

    assert first.status is ConditionStatus.TRUE
    is_stopped = isinstance(edited, dict) and edited.get("suspend") is True
    if said.status is ConditionStatus.FALSE:
        assert complaints(said.message, {"spec": edited}) == [], said.message
        assert is_stopped or after == before
    assert again.status is ConditionStatus.TRUE


async def applied(operator: Operator, job: dict[str, Any]) -> tuple[Condition, dict[Ref, Manifest]]:
    """What the operator says of a job, and the job's children, once it has come to rest."""
    await operator.cluster.put(job)
    await operator.settle()
    return accepted(await status_of(operator)), await operator.children()


@fuzz(EXAMPLES // 5)
@given(statuses, st.booleans())
def test_whatever_stands_in_the_status_is_put_right(status: Any, has_workers: bool) -> None:
    """Wrong types, huge numbers, times to come: read as far as it can be, and written anew."""
    parsed = run(status_after(status, has_workers))

    for condition in parsed.conditions:
        assert len(condition.message) <= 2048
    assert find_condition(parsed.conditions, "Accepted") is not None


async def status_after(status: Any, has_workers: bool) -> AutoMLJobStatus:
    """What a job says whose status somebody has overwritten."""
    operator = Operator()
    metadata = {"name": "churn", "namespace": "team-a", "uid": UID}
    job = {"apiVersion": "kubeautoml.dev/v1alpha1", "kind": "AutoMLJob", "metadata": metadata, "spec": good_specs()[0]}
    await operator.cluster.put(job)
    if has_workers:
        await operator.settle()
    await operator.cluster.edit(JOB, {"status": None})
    await operator.cluster.put({**job, "status": status})

    await operator.settle()

    manifest = await operator.cluster.get(JOB)
    assert manifest is not None
    return parse_status(manifest)


@fuzz(EXAMPLES // 2)
@given(st.one_of(jobs(), specs, st.dictionaries(st.text(max_size=5), specs, max_size=2)))
def test_validate_says_of_anything_what_is_wrong(manifest: Any) -> None:
    """The check of form takes any JSON, and each problem is one line that names the field."""
    for problem in problems(manifest):
        assert problem.message.isprintable() and len(problem.message) < 1024, problem.message
        assert "pydantic" not in problem.message
        assert problem.path in problem.message
