"""What the documentation claims is held by tests that exist; tables of metrics and tasks say what the code says."""

from __future__ import annotations

import re
import tomllib

from docs.markdown_files import ROOT
from kubeautoml.api.crd import KINDS, definition
from kubeautoml.api.metrics import METRICS, TaskType

SECURITY = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
METRICS_PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def test_every_test_that_the_security_page_names_exists_in_the_file_it_names() -> None:
    named: list[tuple[str, str]] = []
    for file, tests in re.findall(r"`(tests/[\w/]+\.py)`:\s+((?:`test_\w+`[,\s]*)+)", SECURITY):
        named += [(file, name) for name in re.findall(r"`(test_\w+)`", tests)]

    assert len(named) == len(re.findall(r"`test_\w+`", SECURITY)) > 20
    assert [n for n in named if f"def {n[1]}(" not in (ROOT / n[0]).read_text(encoding="utf-8")] == []


def test_a_job_cannot_choose_images() -> None:
    """No field of a job's spec is about images, commands or environment of a container."""
    schema = definition(KINDS[0])["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    names = set(re.findall(r"'(\w+)': {'type'", str(schema)))

    assert {"task", "parallelism"} <= names
    assert [n for n in names if re.search("image|command|args|env|volume|container", n, re.IGNORECASE)] == []


def test_every_metric_is_explained_with_its_direction() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (higher|lower) \|", METRICS_PAGE, re.MULTILINE))

    assert rows == {m.name: {"maximize": "higher", "minimize": "lower"}[m.direction] for m in METRICS.values()}


def test_every_task_has_a_page() -> None:
    index = (ROOT / "docs" / "tasks" / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"\]\(([\w-]+\.md)\) \| `(\w+)` \|$", index, re.MULTILINE))

    assert set(rows.values()) == {t.value for t in TaskType}
    for page, task in rows.items():
        assert f"type: {task}" in (ROOT / "docs" / "tasks" / page).read_text(encoding="utf-8")


SIZES = {
    "operator, memory at rest": ("controller", "memory at rest"),
    "operator, peak with a thousand jobs at once, or a job of 20,000 trials": ("operator_scale", "peak memory"),
    "from an object to its first trial": ("controller", "CR created -> first trial started"),
    "time of a pass, 99 of 100": ("operator_scale", "reconcile p99"),
    "writes to the API server a trial": ("controller", "API writes per trial"),
    "a job's object": ("operator_trials", "largest object"),
    "between two trials of a worker, 95 of 100, study server on PostgreSQL": (
        "study",
        "between two trials p95, study server on PostgreSQL",
    ),
}
"""Which range of `make bench` a row of the sizing table shows."""


def test_sizes_are_those_that_the_benchmarks_hold() -> None:
    ranges = tomllib.loads((ROOT / "benchmarks" / "ranges.toml").read_text(encoding="utf-8"))
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+) ?\w*", OPERATIONS.partition("## Size")[2], re.MULTILINE)

    assert {name: float(value) for name, value in rows} == {
        name: float(ranges[group][figure]["max"]) for name, (group, figure) in SIZES.items()
    }
