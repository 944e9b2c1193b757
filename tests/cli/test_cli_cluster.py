"""The daily verbs against a real API server: list, status, leaderboard, logs, report, suspend, resume, predict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.clusters import Cluster, cells, finished, searching
from kubeautoml.cli.main import main
from real.controlplane import ControlPlane

pytestmark = pytest.mark.controlplane


def test_list_shows_each_job_on_one_line(cluster: Cluster, tmp_path: Path):
    """State, trials, best score, progress, URL and age; a job nobody has looked at yet is Pending."""
    cluster.create("new")
    cluster.create("busy", searching())
    cluster.create("done", finished(tmp_path))

    header, *rows = cells(cluster.out("list"))

    assert header == ["NAME", "STATE", "TRIALS", "BEST", "PROGRESS", "URL", "AGE"]
    assert [r[:-1] for r in rows] == [
        ["busy", "Searching", "6", "0.8123", "40%"],
        ["done", "Serving", "6", "0.8123", "100%", "http://churn-server.team.svc.cluster.local"],
        ["new", "Pending", "0", "0%"],
    ]
    assert all(r[-1].endswith("s") for r in rows)


def test_list_in_other_formats(cluster: Cluster, tmp_path: Path):
    """wide adds columns; json, yaml and name are kubectl's; -A adds the namespace."""
    cluster.create("done", finished(tmp_path))

    header, row = cells(cluster.out("list", "-o", "wide"))
    assert header[-3:] == ["METRIC", "FAMILY", "MODEL"]
    assert row[-3:] == ["RocAuc", "LightGBM", "churn-abc12-v1"]
    listed = json.loads(cluster.out("list", "-o", "json"))
    assert (listed["kind"], [o["metadata"]["name"] for o in listed["items"]]) == ("List", ["done"])
    assert yaml.safe_load(cluster.out("list", "-o", "yaml")) == listed
    assert cluster.out("list", "-o", "name") == "automljob.kubeautoml.dev/done\n"
    assert [cluster.namespace, "done"] in [r[:2] for r in cells(cluster.out("list", "-A"))]


def test_an_empty_namespace_is_said_as_kubectl_does(cluster: Cluster):
    """On stderr, with exit 0; in JSON it is an empty list."""
    assert cluster.call("list") == (0, "", f"No AutoMLJobs found in namespace {cluster.namespace}.\n")
    assert json.loads(cluster.out("list", "-o", "json"))["items"] == []


def test_status_shows_conditions_and_where_everything_is(cluster: Cluster, tmp_path: Path):
    """One screen: progress, leaderboard, conditions, model, endpoint, report; -o json is the object."""
    cluster.create("churn", finished(tmp_path))

    text = cluster.out("status", "churn")

    assert f"{cluster.namespace}/churn" in text
    for words in ("Accepted", "SpecValid", "about Succeeded", "LightGBM"):
        assert words in text
    assert f"Model:     file://{tmp_path}/model\n" in text
    assert "Endpoint:  http://churn-server.team.svc.cluster.local\n" in text
    assert f"Report:    file://{tmp_path}/report.html\n" in text
    assert json.loads(cluster.out("status", "churn", "-o", "json"))["status"] == cluster.job("churn")["status"]


def test_leaderboard_ranks_the_trials(cluster: Cluster):
    """Best first, with parameters; JSON holds the same rows; without a trial it says so."""
    cluster.create("busy", searching())
    cluster.create("new")

    assert cells(cluster.out("leaderboard", "busy")) == [
        ["RANK", "TRIAL", "FAMILY", "ROCAUC", "TIME", "PARAMETERS"],
        ["1", "4", "LightGBM", "0.8123", "num_leaves=31"],
        ["2", "1", "Linear", "0.79", "2s"],
    ]
    assert json.loads(cluster.out("leaderboard", "busy", "-o", "json"))[0]["family"] == "LightGBM"
    assert cluster.out("leaderboard", "busy", "-o", "name") == "trial/4\ntrial/1\n"
    assert cluster.call("leaderboard", "new") == (0, "", "AutoMLJob new has no completed trial yet\n")
    assert cluster.out("leaderboard", "new", "-o", "json") == "[]\n"


def test_suspend_and_resume_change_one_field(cluster: Cluster):
    """spec.suspend is patched, nothing else; a second time says that nothing changed."""
    before = cluster.create("churn")["spec"]

    assert cluster.out("suspend", "churn") == "automljob.kubeautoml.dev/churn suspended\n"
    assert cluster.job("churn")["spec"] == {**before, "suspend": True}
    assert cluster.out("suspend", "churn") == "automljob.kubeautoml.dev/churn suspended (no change)\n"
    assert cluster.out("resume", "churn") == "automljob.kubeautoml.dev/churn resumed\n"
    assert cluster.job("churn")["spec"] == {**before, "suspend": False}
    assert cluster.out("resume", "churn") == "automljob.kubeautoml.dev/churn resumed (no change)\n"


@pytest.mark.parametrize("verb", ["status", "leaderboard", "logs", "report", "suspend", "resume", "retry", "predict"])
def test_an_unknown_job_gets_the_nearest_name(verb: str, cluster: Cluster):
    """Exit 1, as kubectl has it for what is not found, and one line."""
    cluster.create("churn")

    code, out, err = cluster.call(verb, "chrun")

    assert (code, out) == (1, "")
    assert err == f"error: AutoMLJob 'chrun' is not in namespace '{cluster.namespace}'; did you mean 'churn'?\n"


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda c: c["clusters"][0]["cluster"].update(server="https://127.0.0.1:9"), "https://127.0.0.1:9"),
        (lambda c: c["users"][0]["user"].update(token="wrong"), "Unauthorized"),
        (lambda c: c.update({"current-context": "nowhere"}), "nowhere"),
    ],
    ids=["no server", "wrong token", "no such context"],
)
def test_a_cluster_that_cannot_be_used_is_one_line(
    break_it: Callable[[dict[str, Any]], None],
    said: str,
    control_plane: ControlPlane,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    """Exit 1 with what was tried."""
    config = json.loads(control_plane.kubeconfig.read_text())
    break_it(config)
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(config))

    assert main(["list", "--kubeconfig", str(file)]) == 1

    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert said in printed.err
    assert printed.err.count("\n") == 1


def test_kubectl_finds_the_command_on_the_path(cluster: Cluster, control_plane: ControlPlane):
    """`kubectl automl list` is the same program, with the kubeconfig from the environment."""
    cluster.create("churn")
    programs = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "KUBECONFIG": str(control_plane.kubeconfig),
    }

    done = subprocess.run(
        ["kubectl", "automl", "list", "-n", cluster.namespace, "-o", "name"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "automljob.kubeautoml.dev/churn\n", "")
