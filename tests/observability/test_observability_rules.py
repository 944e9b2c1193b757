"""The alert rules: valid for Prometheus, each with a firing and a quiet series, its texts, and its page."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from observability.exported import ROOT, RULES, RUNBOOKS, load_alerts

SERIES = ROOT / "tests" / "observability" / "kubeautoml.rules.test.yaml"
PAGES_URL = "https://github.com/kubeautoml/kubeautoml/blob/main/docs/runbooks/"


def promtool(*arguments: str | Path) -> str:
    """What it says; fails with that when it finds something."""
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_rules() -> None:
    """`promtool check rules` parses every expression and template."""
    assert f"SUCCESS: {len(load_alerts())} rules found" in promtool("check", "rules", RULES)


def test_alerts_fire_when_they_should_and_only_then() -> None:
    """`promtool test rules` evaluates them over the series in the file."""
    promtool("test", "rules", SERIES)


@pytest.mark.parametrize("alert", [rule["alert"] for rule in load_alerts()])
def test_every_alert_has_a_firing_and_a_quiet_series(alert: str) -> None:
    """Nothing in the test file may be left out when an alert is added."""
    found = [test for test in yaml.safe_load(SERIES.read_text())["tests"] if test["name"].startswith(f"{alert}:")]

    assert len(found) == 1
    expected = [expected for check in found[0]["promql_expr_test"] for expected in check["exp_samples"]]
    assert expected, "one series must make it fire"
    series = " ".join(each["series"] for each in found[0]["input_series"])
    assert 'namespace="good"' in series, "one series must leave it quiet"
    assert all(f'alertname="{alert}"' in each["labels"] and "good" not in each["labels"] for each in expected)


@pytest.mark.parametrize("rule", load_alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_says_how_bad_it_is_and_what_to_read(rule: dict[str, Any]) -> None:
    """Severity, two sentences and a page with the three questions of whoever is woken by it."""
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert {"summary", "description", "runbook_url"} == set(rule["annotations"])
    assert all(text.endswith(".") for name, text in rule["annotations"].items() if name != "runbook_url")
    assert rule["annotations"]["runbook_url"] == f"{PAGES_URL}{rule['alert']}.md"
    page = (RUNBOOKS / f"{rule['alert']}.md").read_text()
    assert page.startswith(f"# {rule['alert']}\n")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == ["What it means", "How to look", "How to fix"]
    assert "```" in page.split("## How to look")[1].split("## How to fix")[0], "exact commands"
    assert rule["labels"]["severity"] in page.splitlines()[2]


def test_no_page_is_left_over() -> None:
    """An alert that is gone takes its page along, and the index lists them all."""
    alerts = {rule["alert"] for rule in load_alerts()}
    index = (RUNBOOKS / "README.md").read_text()

    assert {page.stem for page in RUNBOOKS.glob("KubeAutoML*.md")} == alerts
    assert set(re.findall(r"\]\((KubeAutoML\w+)\.md\)", index)) == alerts
