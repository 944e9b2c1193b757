"""The dashboard is one that Grafana takes, and asks only for what the code exports."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubeautoml.controller.metrics import Metrics as OperatorMetrics
from kubeautoml.controller.metrics import __doc__ as operator_table
from kubeautoml.study.monitor import Metrics as StudyMetrics
from kubeautoml_trainer.serve.metrics import ServerMetrics
from observability.exported import RUNBOOKS, dashboard_queries, exported_by, load_alerts, load_dashboard, used_in

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WATCHED = re.findall(r"^\| (kubeautoml_\w+) \| (?:gauge|counter) \|", operator_table or "", re.MULTILINE)


def panels(kind: str | None = None) -> list[dict[str, Any]]:
    return [p for p in load_dashboard()["panels"] if p["type"] != "row" and kind in (None, p["type"])]


def exported() -> set[str]:
    """By the three processes. Gauges that the operator adds when it runs stand in its table, which the test on a real Prometheus proves."""
    registries = (OperatorMetrics().registry, StudyMetrics().registry, ServerMetrics("m", "v1", "0" * 64).registry)
    return {*WATCHED, *(name for registry in registries for name in exported_by(registry))}


def test_every_panel_is_there_once_and_in_its_own_place() -> None:
    """Ids and titles within a row are unique, rectangles lie on the grid of 24 columns and do not overlap."""
    all_panels = load_dashboard()["panels"]
    ids = [p["id"] for p in all_panels]
    assert len(ids) == len(set(ids))
    for one, other in itertools.combinations([p["gridPos"] for p in all_panels], 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in all_panels)


def test_the_rows_are_those_that_people_ask_for() -> None:
    """From what teams see to what the platform team looks after."""
    rows = [p["title"] for p in load_dashboard()["panels"] if p["type"] == "row"]

    assert rows == [
        "Jobs and trials",
        "Budgets and accelerators by namespace",
        "Endpoints and model servers",
        "Operator",
        "Study server",
    ]


def test_every_panel_has_a_unit_and_the_chosen_datasource() -> None:
    """Nothing is bound to the Prometheus of whoever drew it."""
    for panel in panels():
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == DATASOURCE
        assert panel["targets"]
        assert all(target["datasource"] == DATASOURCE for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_every_panel_heeds_the_chosen_namespaces() -> None:
    """$namespace are those of jobs, $operator those that operators run in."""
    variables = [v["name"] for v in load_dashboard()["templating"]["list"]]

    assert variables == ["datasource", "namespace", "automljob", "operator"]
    for panel in panels():
        for target in panel["targets"]:
            assert "$namespace" in target["expr"] or "$operator" in target["expr"], panel["title"]


def test_seconds_are_shown_as_seconds_and_bytes_as_bytes() -> None:
    """A unit fits its expression: a quantile of seconds is s, resident memory is bytes, a rate is one."""
    for panel in panels("timeseries"):
        unit, expressions = panel["fieldConfig"]["defaults"]["unit"], [t["expr"] for t in panel["targets"]]
        if any("histogram_quantile" in e for e in expressions):
            assert unit == "s", panel["title"]
        if any("_bytes" in e for e in expressions):
            assert unit == "bytes", panel["title"]


def test_dashboard_rules_and_runbooks_ask_only_for_what_is_exported() -> None:
    """Every metric in them is in a registry of the operator, the study server or the model server."""
    queries = [e for _, e in dashboard_queries()] + [rule["expr"] for rule in load_alerts()]
    blocks = [
        b for page in RUNBOOKS.glob("*.md") for b in re.findall(r"```promql\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    used = {name for expression in [*queries, *blocks] for name in used_in(expression)}

    assert len(used) > 30
    assert used <= exported(), used - exported()


def test_whatever_is_exported_is_shown() -> None:
    """A metric that no panel shows is one that nobody sees; memory and CPU time are enough of a process."""
    shown = {name for _, expression in dashboard_queries() for name in used_in(expression)}
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported() if name.startswith("kubeautoml_")}

    assert ours <= {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}


def test_every_expression_parses(tmp_path: Path) -> None:
    """`promtool` reads each as a recording rule."""
    blocks = [
        b for page in RUNBOOKS.glob("*.md") for b in re.findall(r"```promql\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    lines = [line for block in blocks for line in block.splitlines()]
    rules = [{"record": f"test:{i}", "expr": e} for i, e in enumerate([*(e for _, e in dashboard_queries()), *lines])]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))

    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_says_its_name_as_a_person_would(panel: dict[str, Any]) -> None:
    """Sentence case, and an explanation that ends where one is given."""
    assert panel["title"][0].isupper()
    assert not panel["title"].endswith(".")
    assert panel.get("description", ".").endswith(".")
