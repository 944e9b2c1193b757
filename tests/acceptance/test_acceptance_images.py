"""The example of images on a real API server and S3: from `kubectl apply` to answers about files and pixels."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from acceptance.place import EXAMPLES, Place

pytestmark = [
    pytest.mark.controlplane,
    pytest.mark.s3,
    pytest.mark.postgres,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]


def test_a_manifest_of_images_becomes_an_endpoint_that_answers_images(
    place: Place,
    postgres_url: str,
    tmp_path: Path,
):
    """Ready=True with the example's manifest (two quick families of it), over every fourth file, one of which is broken."""
    script = EXAMPLES / "digits-images.py"
    subprocess.run([sys.executable, str(script), str(tmp_path / "digits")], check=True, capture_output=True)
    files = sorted((tmp_path / "digits" / "train").rglob("*.png"))[::4]
    for number, file in enumerate(files):
        key = f"digits-images/train/{file.parent.name}/{file.name}"
        body = b"" if number == 7 else file.read_bytes()
        place.s3.client.put_object(Bucket="lake", Key=key, Body=body)
    manifest = yaml.safe_load((EXAMPLES / "digits-images.yaml").read_text())
    manifest["spec"] |= {"budget": {"maxTrials": 2}, "search": {"families": {"include": ["Dummy", "Linear"]}}}
    manifest["spec"]["dataset"]["split"] = {"folds": 2}
    job_file = tmp_path / "job.yaml"
    job_file.write_text(yaml.safe_dump(manifest))

    with place.running(postgres_url):
        place.apply(job_file)
        finished = place.served("digits-images")

        model = place.stored_model(finished)
        asked = [f.read_bytes() for f in files[1::30]]
        by_file = place.predict(json.dumps([{"image": base64.b64encode(data).decode()} for data in asked]))
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in asked])
        tensor = {"name": "image", "datatype": "UINT8", "shape": pixels.shape, "data": pixels.ravel().tolist()}
        answer = place.ask("/v2/models/digits-images/infer", json.dumps({"inputs": [tensor]}))
        by_pixels = answer["outputs"][0]["data"]

    said = list(model.predict(pd.DataFrame({"image": asked})))
    key = f"team-a/{place.namespace}/digits-images/{finished['metadata']['uid']}/data/profile.json"
    profile = json.loads(place.s3.client.get_object(Bucket="models", Key=key)["Body"].read())
    assert [p["digit"] for p in by_file] == said
    assert by_pixels == said
    assert model.metrics["Accuracy"] > 0.8
    assert profile["warnings"][0].startswith(
        "1 of 450 rows are left out, whose 'image' cannot be read, such as s3://lake/"
    )
