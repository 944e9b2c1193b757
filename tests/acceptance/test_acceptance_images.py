"""The example of images on a real API server and S3: from `kubectl apply` to answers about files and pixels."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

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


def test_a_manifest_of_images_becomes_an_endpoint_that_answers_images(
    control_plane: ControlPlane,
    kubelet: Kubelet,
    namespace: str,
    s3_server: S3Server,
    postgres_url: str,
    tmp_path: Path,
):
    """Ready=True with the example's manifest (two quick families of it), over every fourth file, one of which is broken."""
    for bucket in ("lake", "models"):
        s3_server.create_bucket(bucket)
    script = EXAMPLES / "digits-images.py"
    subprocess.run([sys.executable, str(script), str(tmp_path / "digits")], check=True, capture_output=True)
    files = sorted((tmp_path / "digits" / "train").rglob("*.png"))[::4]
    for number, file in enumerate(files):
        key = f"digits-images/train/{file.parent.name}/{file.name}"
        body = b"" if number == 7 else file.read_bytes()
        s3_server.client.put_object(Bucket="lake", Key=key, Body=body)
    secret = {"metadata": {"name": "object-storage"}, "stringData": s3_server.settings}
    control_plane.admin.post(f"/api/v1/namespaces/{namespace}/secrets", secret)
    manifest = yaml.safe_load((EXAMPLES / "digits-images.yaml").read_text())
    manifest["spec"] |= {"budget": {"maxTrials": 2}, "search": {"families": {"include": ["Dummy", "Linear"]}}}
    manifest["spec"]["dataset"]["split"] = {"folds": 2}
    job_file, log = tmp_path / "job.yaml", tmp_path / "operator.log"
    job_file.write_text(yaml.safe_dump(manifest))
    job_path = f"/apis/kubeautoml.dev/v1alpha1/namespaces/{namespace}/automljobs/digits-images"

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
        config = str(control_plane.kubeconfig)
        apply = ["kubectl", "--kubeconfig", config, "apply", "-n", namespace, "-f", str(job_file)]
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
        asked = [f.read_bytes() for f in files[1::30]]
        server = next(p for p in pods_of(control_plane, namespace, "server") if p["status"]["phase"] == "Running")
        address = "http://{}:{}".format(*kubelet.pod_address(namespace, server["metadata"]["name"]))
        records = [{"image": base64.b64encode(data).decode()} for data in asked]
        by_file = ask(f"{address}/v1/predict", {"instances": records})["predictions"]
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in asked])
        tensor = {"name": "image", "datatype": "UINT8", "shape": pixels.shape, "data": pixels.ravel().tolist()}
        by_pixels = ask(f"{address}/v2/models/digits-images/infer", {"inputs": [tensor]})["outputs"][0]["data"]

    said = list(model.predict(pd.DataFrame({"image": asked})))
    key = f"team-a/{namespace}/digits-images/{finished['metadata']['uid']}/data/profile.json"
    profile = json.loads(s3_server.client.get_object(Bucket="models", Key=key)["Body"].read())
    assert [p["digit"] for p in by_file] == said
    assert by_pixels == said
    assert model.metrics["Accuracy"] > 0.8
    assert profile["warnings"][0].startswith(
        "1 of 450 rows are left out, whose 'image' cannot be read, such as s3://lake/"
    )


def ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.loads(response.read())
