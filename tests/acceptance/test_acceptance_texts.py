"""The example of texts on a real API server: from `kubectl apply` to answers about texts that nobody has seen."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from acceptance.test_acceptance_whole_path import condition, pods_of, running_operator, wait_until
from kubeautoml_trainer.bundle import load_bundle
from real.controlplane import ControlPlane
from real.kubelet import Kubelet
from real.s3 import S3Server
from real.study_server import running_study_server

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

pytestmark = [
    pytest.mark.controlplane,
    pytest.mark.s3,
    pytest.mark.postgres,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]


def questions(monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """What examples/questions.py writes."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    spec = importlib.util.spec_from_file_location("questions", EXAMPLES / "questions.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "questions", module)
    spec.loader.exec_module(module)
    return module.questions()


def test_a_manifest_of_texts_becomes_an_endpoint_that_answers_texts(
    control_plane: ControlPlane,
    kubelet: Kubelet,
    namespace: str,
    s3_server: S3Server,
    postgres_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Ready=True with the example's manifest (three trials of it), and the endpoint says what the stored model says."""
    for bucket in ("lake", "models"):
        s3_server.create_bucket(bucket)
    rows = questions(monkeypatch)
    s3_server.client.put_object(Bucket="lake", Key="questions/train.csv", Body=rows.to_csv(index=False).encode())
    secret = {"metadata": {"name": "object-storage"}, "stringData": s3_server.settings}
    control_plane.admin.post(f"/api/v1/namespaces/{namespace}/secrets", secret)
    manifest = yaml.safe_load((EXAMPLES / "questions.yaml").read_text())
    manifest["spec"]["budget"] = {"maxTrials": 3}
    file, log = tmp_path / "job.yaml", tmp_path / "operator.log"
    file.write_text(yaml.safe_dump(manifest))
    job_path = f"/apis/kubeautoml.dev/v1alpha1/namespaces/{namespace}/automljobs/questions"

    def job() -> dict[str, Any]:
        return control_plane.admin.get(job_path)

    def explain() -> str:
        return "\n".join([json.dumps(job().get("status"), indent=1), log.read_text()[-4000:]])

    def is_over() -> bool:
        return condition(job(), "Ready") == "True" or condition(job(), "Succeeded") == "False"

    with (
        running_study_server(postgres_url) as study_server,
        running_operator(control_plane, namespace, study_server.url, log),
    ):
        apply = ["kubectl", "--kubeconfig", str(control_plane.kubeconfig), "apply", "-n", namespace, "-f", str(file)]
        applied = subprocess.run(apply, capture_output=True, text=True, check=False)
        assert applied.returncode == 0, applied.stderr
        wait_until(is_over, 300, "the end of the job", explain)
        finished = job()
        assert condition(finished, "Ready") == "True", explain()

        stored = control_plane.admin.get(
            f"/apis/kubeautoml.dev/v1alpha1/namespaces/{namespace}/automlmodels/{finished['status']['model']['name']}"
        )["spec"]
        keys = s3_server.write_credentials(tmp_path / "keys")
        model = load_bundle(stored["uri"], credentials_dir=keys, sha256=stored["sha256"])
        asked = pd.DataFrame({"question": ["who wrote the novel?", "are you a robot", "", "Wie heißt du?", "天气"]})
        server = next(p for p in pods_of(control_plane, namespace, "server") if p["status"]["phase"] == "Running")
        host, port = kubelet.pod_address(namespace, server["metadata"]["name"])
        body = json.dumps({"instances": asked.to_dict("records")}).encode()
        request = urllib.request.Request(f"http://{host}:{port}/v1/predict", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.loads(response.read())["predictions"]

    assert [p["topic"] for p in answer] == list(model.predict(asked))
    assert model.metrics["Accuracy"] > 0.8
