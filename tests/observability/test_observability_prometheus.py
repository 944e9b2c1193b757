"""A real Prometheus scrapes the three processes as the runbooks say, loads the rules, and answers the dashboard's queries."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from controller.life import make_churn
from kubeautoml.api.names import study_name
from kubeautoml.api.trials import TrialAttr
from kubeautoml.study import create_study, open_study_storage
from observability.exported import dashboard_queries, load_alerts
from observability.prometheus import PATIENCE_SECONDS, Pod, Prometheus, running_prometheus
from observability.test_observability_dashboard import exported
from real.controlplane import ControlPlane
from real.operator_process import running_operator
from real.process import free_ports
from real.study_server import running_study_server
from serve.bundles import train_every_type
from serve.running import running

INSTALLED_IN = "kubeautoml-system"

QUIET = {
    "Passes that fail, by reason",
    "API requests that did not succeed",
    "Calls that did not succeed",
    "Searches that ended, by limit",
    "Database errors and denials",
    "Token lookups",
}
"""Panels that are empty while nothing fails, no search has ended, and the study server asks for no token."""

pytestmark = [pytest.mark.controlplane, pytest.mark.postgres, pytest.mark.slow]


@pytest.fixture
def prometheus(control_plane: ControlPlane, namespace: str, postgres_url: str, tmp_path: Path) -> Iterator[Prometheus]:
    """It scrapes an operator with one job, its study server, and a model server that has predicted a row."""
    trained = train_every_type(tmp_path / "trained", ["Linear"], classes=True)
    (study_metrics,) = free_ports(1)
    manifest = make_churn()
    manifest["metadata"] = {"name": "churn", "namespace": namespace}
    with (
        running_study_server(postgres_url, "--metrics-port", str(study_metrics)) as study,
        running_operator(
            control_plane, tmp_path / "operator.log", "-n", namespace, lease_namespace=namespace, study_url=study.url
        ) as operator,
        running(str(trained.folder), tmp_path) as server,
    ):
        jobs = f"/apis/kubeautoml.dev/v1alpha1/namespaces/{namespace}/automljobs"
        uid = control_plane.admin.post(jobs, manifest)["metadata"]["uid"]
        predict(server.url, trained.records[:1])
        operator.wait_said("leading")
        name = "app.kubernetes.io/name"
        pods = [
            Pod(operator.port, INSTALLED_IN, "metrics", {name: "kubeautoml-operator"}),
            Pod(study_metrics, INSTALLED_IN, "metrics", {name: "kubeautoml-study"}),
            Pod(study.port, INSTALLED_IN, "grpc", {name: "kubeautoml-study"}),
            Pod(server.port, namespace, "http", {"kubeautoml.dev/component": "server", "kubeautoml.dev/job": "churn"}),
        ]
        with running_prometheus(tmp_path, pods) as found:
            found.wait_for(f'kubeautoml_trials_ended_total{{namespace="{namespace}"}}')
            run_trials(study.url, study_name(namespace, "churn", uid))
            look_again(control_plane, f"{jobs}/churn", found, namespace)
            yield found


def run_trials(url: str, name: str) -> None:
    """What workers would do: two trials complete, one is cut."""
    study = create_study(open_study_storage(url), name, "maximize")
    for value in (0.9, 0.8, None):
        trial = study.ask()
        trial.set_user_attr(TrialAttr.FAMILY.value, "Linear")
        study.tell(trial, value, state=optuna.trial.TrialState.PRUNED if value is None else None)


def look_again(plane: ControlPlane, job: str, prometheus: Prometheus, namespace: str) -> None:
    """No node runs the job's pods, so the operator has no cause to look at the study soon: the job is touched until it has."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not prometheus.query(f'kubeautoml_search_best_value{{namespace="{namespace}"}}'):
        assert time.monotonic() < deadline, (
            f"the job must search and have a best trial, got {plane.admin.get(job)['status']}"
        )
        plane.admin.patch(job, {"metadata": {"annotations": {"touched": str(time.monotonic())}}})
        time.sleep(1.0)


def predict(url: str, records: list[dict[str, Any]]) -> None:
    """Once it listens, which is a moment after it says so."""
    request = urllib.request.Request(
        f"{url}/v1/predict", json.dumps(records).encode(), {"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert answer.status == 200
                return
        except urllib.error.HTTPError:
            raise
        except OSError:
            assert time.monotonic() < deadline, f"{url} must answer within {PATIENCE_SECONDS:g} s"
            time.sleep(0.1)


def test_prometheus_sees_jobs_and_all_three_processes(prometheus: Prometheus, namespace: str) -> None:
    """Targets are up, series have values, rules are loaded and quiet, every panel's query is answered."""
    prometheus.wait_for("kubeautoml_jobs == 1")
    prometheus.wait_for('rate(kubeautoml_study_requests_total{method!="Check"}[1m])')
    prometheus.wait_for("rate(kubeautoml_study_calls_total[1m])")
    prometheus.wait_for("rate(kubeautoml_server_requests_total[1m])")

    up = {(labels["job"], labels["namespace"]): value for labels, value in prometheus.query("up")}
    assert up == {
        ("kubeautoml-operator", INSTALLED_IN): 1,
        ("kubeautoml-study", INSTALLED_IN): 1,
        ("kubeautoml-model-servers", namespace): 1,
    }
    check_searches(prometheus, namespace)
    check_labels(prometheus, namespace)
    check_names(prometheus)
    check_panels(prometheus)
    check_rules(prometheus)


def check_searches(prometheus: Prometheus, namespace: str) -> None:
    """The search has its line, its trials are counted up and timed."""
    search = f'namespace="{namespace}", automljob="churn"'
    prometheus.wait_for(f"kubeautoml_search_best_value{{{search}}} == 0.9")
    prometheus.wait_for(f"kubeautoml_search_budget_used_ratio{{{search}}} > 0")
    prometheus.wait_for(
        f'increase(kubeautoml_trials_ended_total{{namespace="{namespace}", state="Completed"}}[1m]) > 0'
    )
    prometheus.wait_for('kubeautoml_study_trial_duration_seconds_count{state="Complete"} == 2')
    prometheus.wait_for('kubeautoml_study_trial_duration_seconds_count{state="Pruned"} == 1')


def check_labels(prometheus: Prometheus, namespace: str) -> None:
    """Jobs are counted in their own namespace, the operator's figures in its own; a model server says whose it is."""
    jobs = {labels["namespace"] for labels, _ in prometheus.query("kubeautoml_jobs")}
    leaders = {labels["namespace"]: value for labels, value in prometheus.query("kubeautoml_leader")}
    models = [labels["automljob"] for labels, _ in prometheus.query("kubeautoml_server_model_info")]

    assert jobs == {namespace}
    assert leaders == {INSTALLED_IN: 1}
    assert models == ["churn"]
    assert not prometheus.query('{exported_namespace=~".+"}')


def check_names(prometheus: Prometheus) -> None:
    """What runs exports what the tables say, but for counters of what has not happened."""
    there = {n for n in prometheus.ask("label/__name__/values") if n.startswith("kubeautoml_")}
    missing = {name for name in exported() if name.startswith("kubeautoml_")} - there

    assert missing <= {
        "kubeautoml_reconcile_errors_total",
        "kubeautoml_searches_ended",
        "kubeautoml_study_denied_requests_total",
        "kubeautoml_study_token_lookups_total",
    }


def check_panels(prometheus: Prometheus) -> None:
    """No query is refused, and only panels of trouble are empty."""
    for title, expression in dashboard_queries():
        if title in QUIET:
            prometheus.query(expression)
        else:
            prometheus.wait_for(expression)


def check_rules(prometheus: Prometheus) -> None:
    """All are evaluated without an error, and none fires."""
    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]

    assert len(rules) == len(load_alerts())
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    assert all(not rule.get("lastError") for rule in rules)
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []
