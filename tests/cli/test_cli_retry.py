"""`kubectl automl retry`: which jobs it takes, and what it says of the others; a real operator brings one back to work."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.clusters import Cluster, conditions, finished, searching
from kubeautoml.api.names import study_name
from kubeautoml.api.trials import Failure, StudyAttr
from kubeautoml.study import create_study, open_study_storage, set_study_attr
from real.controlplane import ControlPlane
from real.operator_process import running_operator

pytestmark = pytest.mark.controlplane

ANNOTATION = "kubeautoml.dev/retry"


def failed() -> dict[str, object]:
    return searching() | {"conditions": conditions(Accepted="True SpecValid", Succeeded="False WorkersFailed")}


def test_a_failed_job_gets_the_annotation(cluster: Cluster):
    """Another value each time, and nothing else changes."""
    spec = cluster.create("churn", failed())["spec"]

    assert cluster.out("retry", "churn") == "automljob.kubeautoml.dev/churn retried\n"
    first = cluster.job("churn")
    assert cluster.out("retry", "automljob/churn") == "automljob.kubeautoml.dev/churn retried\n"
    second = cluster.job("churn")

    assert first["metadata"]["annotations"][ANNOTATION] != second["metadata"]["annotations"][ANNOTATION]
    assert second["spec"] == spec


def test_other_jobs_are_refused_with_what_to_do(cluster: Cluster, tmp_path: Path):
    """A model is there, it runs, it waits, it was never taken."""
    cluster.create("done", finished(tmp_path))
    cluster.create("busy", searching())
    cluster.create("resting", searching(), suspend=True)
    cluster.create("odd", {"conditions": conditions(Accepted="False UnfittingMetric")})
    cluster.create("new")

    for name, said in (
        (
            "done",
            "has its model, so there is nothing to try again; for a better one apply another job with spec.search.warmStartFrom",
        ),
        ("busy", "has not failed (Searching); see kubectl automl status busy"),
        ("resting", "is suspended and has not failed; go on with: kubectl automl resume resting"),
        ("odd", "was not accepted (about Accepted); edit the manifest, and it begins by itself"),
        ("new", "has not failed (Pending); see kubectl automl status new"),
    ):
        code, out, err = cluster.call("retry", name)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert err.startswith(f"error: AutoMLJob '{name}' {said}")
        assert ANNOTATION not in cluster.job(name)["metadata"].get("annotations", {})


def test_suspending_what_has_ended_says_that_it_changes_nothing(cluster: Cluster, tmp_path: Path):
    """The field is set, for it is the user's."""
    cluster.create("done", finished(tmp_path))

    assert cluster.out("suspend", "done") == (
        "automljob.kubeautoml.dev/done suspended (it has ended, so this changes nothing)\n"
    )
    assert cluster.job("done")["spec"]["suspend"] is True


def test_an_operator_puts_the_job_back_to_work(cluster: Cluster, control_plane: ControlPlane, tmp_path: Path):
    """A worker said that the key may not read; somebody mended that: new workers come, and the status says what happened."""
    url, ns, log = f"journal://{tmp_path}/study.log", cluster.namespace, tmp_path / "operator.log"
    jobs = f"/apis/batch/v1/namespaces/{ns}/jobs"

    def eventually(holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 90
        while not holds():
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.1)

    with running_operator(
        control_plane, log, "-n", ns, lease_namespace=ns, study_url=url, KUBEAUTOML_RESYNC_SECONDS="1"
    ):
        uid = cluster.create("churn")["metadata"]["uid"]
        eventually(lambda: len(cluster.admin.items(jobs)) == 1)
        first = cluster.admin.items(jobs)[0]["metadata"]["uid"]
        study = create_study(open_study_storage(url), study_name(ns, "churn", uid), "maximize")
        set_study_attr(study, StudyAttr.FAILURE, Failure("data", "AccessDenied", "the key may not read"))
        eventually(lambda: "AccessDenied" in cluster.call("status", "churn")[1])
        eventually(lambda: cluster.call("retry", "churn")[0] == 0)

        eventually(lambda: cluster.job("churn")["status"].get("retry", {}).get("count") == 1)
        eventually(lambda: [j["metadata"]["uid"] for j in cluster.admin.items(jobs)] not in ([], [first]))

        shown = cluster.out("status", "churn")
        assert "Searching" in shown
        assert "AccessDenied" not in shown
        events = cluster.admin.items(f"/api/v1/namespaces/{ns}/events")
        assert [e["message"] for e in events if e["reason"] == "Retried"] == [
            "the job is started again (retry 1); no trial had completed, so the search begins anew with all of its budgets"
        ]
        cluster.admin.delete(f"/apis/kubeautoml.dev/v1alpha1/namespaces/{ns}/automljobs/churn")
