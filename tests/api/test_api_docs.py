"""What the reference shows is what the kinds accept."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from factories import make_manifest
from kubeautoml.api.check import check_job
from kubeautoml.api.form import parse_job, parse_profile
from kubeautoml.api.names import QUEUE_LABEL, QUEUE_PRIORITY_LABEL

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "platform.md"
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)]


def test_the_profile_of_the_reference_is_a_good_one() -> None:
    """And a modest job fits into it."""
    profile = parse_profile(BLOCKS[0])

    job = parse_job(make_manifest(budget={"maxDurationSeconds": 3600}))

    assert list(check_job(job, profile)) == []


def test_the_labels_of_the_reference_are_those_that_are_read() -> None:
    assert set(BLOCKS[1]["metadata"]["labels"]) == {QUEUE_LABEL, QUEUE_PRIORITY_LABEL}


@pytest.mark.parametrize("field", re.findall(r"^\| `(\w+)`", PAGE.read_text(), re.MULTILINE))
def test_every_budget_of_the_reference_is_a_field(field: str) -> None:
    values = {"targetValue": "0.9"}

    given = {field: values.get(field, 100)}
    job = parse_job(make_manifest(budget=given))

    assert job.spec.budget.to_manifest().items() >= given.items()
