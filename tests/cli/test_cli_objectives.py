"""Objectives beyond a metric, from the manifest to the file of predictions: costs, sets, intervals, quantiles, variants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cli.runs import Place, make_rows
from kubeautoml_trainer import load_model

pytestmark = pytest.mark.slow


def test_costs_decide_and_sets_say_how_sure(tmp_path: Path):
    """Where a missed buyer costs ten times a letter, letters go to most; every variant keeps to it."""
    place = Place(tmp_path)
    costs = [{"actual": "yes", "predicted": "no", "cost": "10"}, {"actual": "no", "predicted": "yes", "cost": "1"}]
    place.write(
        make_rows(400),
        objective={
            "metric": "ExpectedCost",
            "costs": costs,
            "intervals": {"coverage": "0.9"},
            "classWeight": "Balanced",
        },
        output={"uri": "s3://models/shop", "variants": ["Balanced", "Fast"]},
    )

    ended = place.run("-o", "json")

    assert ended.code == 0, ended.err
    new = make_rows(300, seed=1)
    told = ended.job["status"]["model"]["variants"]
    assert [v["name"] for v in told] == ["Balanced", "Fast"]
    for variant in ("Balanced", "Fast"):
        model = load_model(ended.job["status"]["model"]["uri"], variant=variant)
        found = model.predict_frame(new)
        likely = found["bought_yes"] > 0.5
        cost = np.where(new["bought"] == "yes", 10, 1)
        lost = float(np.mean(cost * (found["bought"] != new["bought"])))
        plain = float(np.mean(cost * (np.where(likely, "yes", "no") != new["bought"])))
        held = np.mean(
            [truth in likely_set for truth, likely_set in zip(new["bought"], found["bought_set"], strict=True)]
        )
        assert lost < plain
        assert held > 0.8


@pytest.mark.parametrize("wish", ["intervals", "quantiles"])
def test_a_number_comes_with_how_far_it_may_be_off(tmp_path: Path, wish: str):
    """Four fifths of new rows lie between the ends, by intervals or by the quantiles .1 and .9."""
    rng = np.random.default_rng(0)
    rows = make_rows(700).drop(columns="bought")
    rows["spent"] = 2 * rows["age"] + rng.normal(0, 10, len(rows))
    train, new = rows.iloc[:500], rows.iloc[500:]
    place = Place(tmp_path)
    task = {"type": "TabularRegression", "target": "spent"}
    more = {"objective": {"metric": "Mae", "intervals": {"coverage": "0.8"}}}
    place.write(
        train,
        task=task | ({"quantiles": ["0.1", "0.5", "0.9"]} if wish == "quantiles" else {}),
        **(more if wish == "intervals" else {}),
    )

    ended = place.run("-o", "json")

    assert ended.code == 0, ended.err
    found: pd.DataFrame = load_model(ended.job["status"]["model"]["uri"]).predict_frame(new)
    low, high = ("spent_low", "spent_high") if wish == "intervals" else ("spent_q0.1", "spent_q0.9")
    inside = np.mean((new["spent"] >= found[low]) & (new["spent"] <= found[high]))
    assert (found[low] <= found["spent"]).all() and (found["spent"] <= found[high]).all()
    assert 0.65 < inside < 0.93
