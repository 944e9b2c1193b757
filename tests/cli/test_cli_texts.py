"""Texts from the manifest to predictions: short and repetitive ones, beside numbers and categories, in batches and one by one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cli.runs import Place, end_of
from kubeautoml_trainer import load_model
from kubeautoml_trainer.pretrained import folder_digest
from models.encoder_factories import write_encoder

pytestmark = pytest.mark.slow

TASK = {"type": "TextClassification", "target": "mood"}
KIND, RUDE = ("good", "nice shop", "sehr gut", "很好"), ("bad", "awful shop", "sehr schlecht", "不好")


def make_reviews(count: int = 240, seed: int = 0) -> pd.DataFrame:
    """Eight short texts that come again and again; the mood follows from them, with some noise."""
    rng = np.random.default_rng(seed)
    kind = rng.random(count) < 0.5
    text = np.where(kind, rng.choice(KIND, count), rng.choice(RUDE, count))
    mood = np.where(kind ^ (rng.random(count) < 0.05), "happy", "angry")
    return pd.DataFrame({"review": text, "stars": rng.integers(1, 6, count), "mood": mood})


def test_short_texts_that_come_again_are_texts_where_the_task_says_so(tmp_path: Path):
    """A tabular task would take eight texts for eight categories; new wordings of known words are understood here."""
    place = Place(tmp_path)
    place.write(make_reviews(), task=TASK, budget={"maxTrials": 4})

    ended = place.run("-o", "json")

    assert ended.code == 0, ended.err
    model = load_model(ended.job["status"]["model"]["uri"])
    assert {c.name: c.type.value for c in model.schema.columns} == {"review": "Text", "stars": "Number"}
    new = pd.DataFrame({"review": ["sehr nice", "awful, schlecht!", "", None], "stars": 3})
    probability = model.predict_proba(new)[:, list(model.classes).index("happy")]
    assert probability[0] > 0.6 > 0.4 > probability[1]
    assert np.isfinite(probability).all()
    (report,) = place.folder.rglob("report.html")
    assert "Words that matter" in report.read_text() and "schlecht (" in report.read_text()
    alone = np.vstack([model.predict_proba(new.iloc[k : k + 1]) for k in range(len(new))])
    np.testing.assert_allclose(alone, model.predict_proba(new), atol=1e-6)


def test_a_table_without_texts_is_refused_with_a_reason(tmp_path: Path):
    """The job ends before a trial; the message names what was found and what to do."""
    place = Place(tmp_path)
    frame = make_reviews().drop(columns="review").assign(price=1.5, when="2024-01-31")
    place.write(frame, task=TASK, budget={"maxTrials": 3})

    ended = place.run()

    assert ended.code != 0
    assert "a text task needs a column of texts, found: stars (Number), price (Constant), when (Constant)" in ended.err
    assert place.trials() == []


@pytest.mark.timeout(600)
def test_a_named_encoder_is_used_and_stands_once_in_the_model(tmp_path: Path):
    """Several pipelines of two families read through it; the model needs neither the weights nor their place any more."""
    place = Place(tmp_path)
    weights = write_encoder(place.data.parent / "weights")
    given = {"family": "TextEncoder", "uri": "s3://lake/weights/", "sha256": folder_digest(weights)}
    families = {"include": ["TextEncoder", "LightGBM"]}
    by_encoder = {"name": "texts", "when": {"family": "LightGBM"}, "categorical": {"choices": ["embeddings"]}}
    place.write(
        make_reviews(160),
        task=TASK,
        search={"families": families, "pretrained": [given], "parameters": [by_encoder], "seed": 1},
        budget={"maxTrials": 4},
        output={"uri": "s3://models/shop", "variants": ["Quality", "Balanced"]},
    )

    ended = end_of(place.start("-o", "json"), 550)  # it reads torch and transformers

    assert ended.code == 0, ended.err
    assert "refit failed" not in ended.err
    tried = [t.params for t in place.trials() if t.state.name == "COMPLETE"]
    assert {"TextEncoder", "LightGBM"} == {p["family"] for p in tried}
    assert all(p.get("LightGBM.texts") == "embeddings" for p in tried if p["family"] == "LightGBM")
    uri = ended.job["status"]["model"]["uri"]
    folder = Path(uri.removeprefix("file://"))
    assert [p.name for p in folder.glob("encoders/*")] == [given["sha256"]]
    for file in weights.iterdir():
        file.unlink()
    new = make_reviews(20, seed=1)
    command = [sys.executable, "-m", "kubeautoml.cli.main", "predict", "--model", uri, "--variant", "Balanced"]
    new.drop(columns="mood").to_csv(tmp_path / "new.csv", index=False)
    done = subprocess.run(
        [*command, "--input", str(tmp_path / "new.csv"), "--output", str(tmp_path / "out.csv")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (pd.read_csv(tmp_path / "out.csv")["mood"] == new["mood"]).mean() > 0.7


def test_a_fine_tuned_encoder_goes_all_the_way(tmp_path: Path):
    """Every variant holds the tuned networks and their tokenizers, needs neither weights nor torch, and the exported script tunes again."""
    place = Place(tmp_path)
    weights = write_encoder(place.data.parent / "weights")
    given = {"family": "TextEncoder", "uri": "s3://lake/weights/", "sha256": folder_digest(weights)}
    of_it = {"when": {"family": "TextEncoder"}}
    fine = [
        {"name": "tuning", **of_it, "categorical": {"choices": ["fine"]}},
        {"name": "tuning_epochs", **of_it, "int": {"min": 6, "max": 8}},
        {"name": "learning_rate", **of_it, "float": {"min": "0.003", "max": "0.004"}},
        {"name": "rate_by", **of_it, "categorical": {"choices": ["given"]}},
    ]
    place.write(
        make_reviews(120),
        task=TASK,
        search={"families": {"include": ["TextEncoder"]}, "pretrained": [given], "parameters": fine, "seed": 1},
        budget={"maxTrials": 2},
        output={"uri": "s3://models/shop", "variants": ["Quality", "Balanced", "Fast"]},
    )

    ended = place.run("-o", "json")

    assert ended.code == 0, ended.err
    assert ended.job["status"]["best"]["parameters"]["TextEncoder.tuning"] == "fine"
    (script,) = place.folder.rglob("pipeline.py")
    again = subprocess.run([sys.executable, str(script), str(place.data)], capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "Accuracy" in again.stdout, again.stderr
    for path in weights.iterdir():
        path.unlink()
    new = make_reviews(100, seed=1)
    for variant in ("Quality", "Balanced", "Fast"):
        model = load_model(ended.job["status"]["model"]["uri"], variant=variant)
        assert (model.predict(new) == new["mood"]).mean() > 0.7, variant
