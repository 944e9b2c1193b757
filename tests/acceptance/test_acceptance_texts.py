"""The example of texts on a real API server: from `kubectl apply` to answers about texts that nobody has seen."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from acceptance.place import EXAMPLES, Place

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
    place: Place,
    postgres_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Ready=True with the example's manifest (three trials of it), and the endpoint says what the stored model says."""
    rows = questions(monkeypatch)
    place.s3.client.put_object(Bucket="lake", Key="questions/train.csv", Body=rows.to_csv(index=False).encode())
    manifest = yaml.safe_load((EXAMPLES / "questions.yaml").read_text())
    manifest["spec"]["budget"] = {"maxTrials": 3}
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(manifest))

    with place.running(postgres_url):
        place.apply(file)
        model = place.stored_model(place.served("questions"))
        asked = pd.DataFrame({"question": ["who wrote the novel?", "are you a robot", "", "Wie heißt du?", "天气"]})
        answer = place.predict(json.dumps(asked.to_dict("records")))

    assert [p["topic"] for p in answer] == list(model.predict(asked))
    assert model.metrics["Accuracy"] > 0.8
