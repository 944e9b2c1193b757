"""Texts from the manifest to predictions: short and repetitive ones, beside numbers and categories, in batches and one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cli.runs import Place
from kubeautoml_trainer import load_model

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
    place.write(make_reviews(), task=TASK)

    ended = place.run("-o", "json")

    assert ended.code == 0, ended.err
    model = load_model(ended.job["status"]["model"]["uri"])
    assert {c.name: c.type.value for c in model.schema.columns} == {"review": "Text", "stars": "Number"}
    new = pd.DataFrame({"review": ["sehr nice", "awful, schlecht!", "", None], "stars": 3})
    probability = model.predict_proba(new)[:, list(model.classes).index("happy")]
    assert probability[0] > 0.7 > 0.3 > probability[1]
    assert np.isfinite(probability).all()
    alone = np.vstack([model.predict_proba(new.iloc[k : k + 1]) for k in range(len(new))])
    np.testing.assert_allclose(alone, model.predict_proba(new), atol=1e-6)


def test_a_table_without_texts_is_refused_with_a_reason(tmp_path: Path):
    """The job ends before a trial; the message names what was found and what to do."""
    place = Place(tmp_path)
    frame = make_reviews().drop(columns="review").assign(price=1.5, when="2024-01-31")
    place.write(frame, task=TASK)

    ended = place.run()

    assert ended.code != 0
    assert "a text task needs a column of texts, found: stars (Number), price (Constant), when (Constant)" in ended.err
    assert place.trials() == []
