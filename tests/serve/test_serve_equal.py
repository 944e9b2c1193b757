"""Served predictions are the trainer's own, for every family, over both protocols, however a client writes its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from kubeautoml_trainer.models import FAMILIES
from kubeautoml_trainer.serve.app import create_app
from serve.asking import (
    ask_records,
    ask_tensors,
    assert_same,
    from_records,
    from_tensors,
    integers_as_floats,
    tensors_of,
)
from serve.bundles import Trained, real_table, train
from serve.conftest import Train

EVERY_FAMILY = pytest.mark.parametrize("family", [f.name for f in FAMILIES])
EVERY_TARGET = pytest.mark.parametrize("classes", [True, False], ids=["class", "number"])


def serve(trained: Trained) -> TestClient:
    return TestClient(create_app(trained.model, name="churn", version="v1"))


@EVERY_FAMILY
@EVERY_TARGET
def test_both_protocols_give_what_the_trainer_predicted_before_saving(trained: Train, family: str, classes: bool):
    """The fitted pipelines' predictions, saved, loaded, served, are the same numbers."""
    model = trained(family, classes)
    client = serve(model)

    plain = from_records(ask_records(client, {"instances": model.records}), model.schema)
    tensors = from_tensors(ask_tensors(client, tensors_of(model.records, model.schema)))

    assert_same(plain, model.expected)
    assert_same(tensors, model.expected)


@EVERY_FAMILY
@EVERY_TARGET
def test_a_row_alone_is_predicted_as_among_others(trained: Train, family: str, classes: bool):
    """No prediction depends on the other rows of its request."""
    model = trained(family, classes)
    client = serve(model)

    alone = from_records(ask_records(client, model.records[5]), model.schema)

    assert_same(alone, model.expected.iloc[[5]].reset_index(drop=True))


@pytest.mark.parametrize("name", ["breast_cancer", "iris", "diabetes"])
def test_an_ensemble_on_real_data_is_served_as_trained(name: str, tmp_path: Path):
    """Two classes, three classes and numbers, from scikit-learn's own tables."""
    raw, target = real_table(name)
    model = train(tmp_path, raw, target, ["Linear", "LightGBM", "ExtraTrees"])
    client = serve(model)

    assert_same(from_records(ask_records(client, model.records), model.schema), model.expected)
    assert_same(from_tensors(ask_tensors(client, tensors_of(model.records, model.schema))), model.expected)
    if model.schema.classes:
        sums = model.expected.drop(columns=target).sum(axis=1)
        np.testing.assert_allclose(sums, 1, atol=1e-5)
        assert model.expected[target].nunique() == len(model.schema.classes)


def backwards(record: dict[str, Any]) -> dict[str, Any]:
    return dict(reversed(record.items()))


def with_more(record: dict[str, Any]) -> dict[str, Any]:
    return {"colour": "red", **record, "nested": [1, {"a": 2}]}


@pytest.mark.parametrize("change", [backwards, with_more], ids=["another order", "unknown columns"])
def test_order_and_unknown_columns_do_not_matter(churn: Trained, client: TestClient, change: Any):
    """Columns are found by name; what the model does not know is ignored."""
    records = [change(r) for r in churn.records]

    assert_same(from_records(ask_records(client, records), churn.schema), churn.expected)


def test_whole_numbers_and_floats_are_the_same_numbers(churn: Trained, client: TestClient):
    """42 and 42.0, INT64 and FP64."""
    floats = [integers_as_floats(r, churn.schema) for r in churn.records]
    body = tensors_of(churn.records, churn.schema)
    body["inputs"][0]["datatype"] = "INT64"

    assert_same(from_records(ask_records(client, floats), churn.schema), churn.expected)
    assert_same(from_tensors(ask_tensors(client, body)), churn.expected)


def test_null_and_an_absent_key_are_the_same_gap(churn: Trained, client: TestClient):
    """A record without a key that other records have means null there, as does NaN."""
    full = next(r for r in churn.records if all(v is not None for v in r.values()))
    gap = {**full, "balance": None}
    absent = {k: v for k, v in full.items() if k != "balance"}

    null = ask_records(client, [full, gap])
    left_out = ask_records(client, [full, absent])
    nan = client.post("/v1/predict", content=null.request.content.replace(b"null", b"NaN"))

    assert null.status_code == 200
    assert left_out.json() == null.json() == nan.json()
    assert null.json()["predictions"][0] != null.json()["predictions"][1]


def test_every_value_may_be_missing(churn: Trained, client: TestClient):
    """A row of nulls is predicted, as the trainer predicts it."""
    nothing = {c.name: None for c in churn.schema.features}

    response = ask_records(client, nothing)

    assert from_records(response, churn.schema)["target"].iloc[0] in churn.schema.classes


def test_a_category_never_seen_is_predicted(churn: Trained, client: TestClient):
    """It counts as other than all known ones; two unseen ones are alike."""
    record = churn.records[0]

    answers = [ask_records(client, {**record, "plan": plan}).json() for plan in ("gold", "platinum", "pro")]

    assert answers[0] == answers[1] != answers[2]


@pytest.mark.parametrize(
    "spelling", ["2021-05-04", "2021-05-04T00:00:00", "2021-05-04T00:00:00.000Z", "2021-05-04T02:00:00+02:00"]
)
def test_dates_come_as_iso_text(churn: Trained, client: TestClient, spelling: str):
    """All ISO spellings of one moment are one value; UTC where no zone is given."""
    record = churn.records[0]

    answer = ask_records(client, {**record, "since": spelling})

    assert answer.status_code == 200
    assert answer.json() == ask_records(client, {**record, "since": 1620086400}).json()


def test_text_with_any_character_is_predicted(churn: Trained, client: TestClient):
    """Emoji, NUL, right-to-left, quotes."""
    records = [{**churn.records[0], "note": text, "plan": text} for text in ("\U0001f600", "\0", "שלום", "'\"<>&")]

    assert len(from_records(ask_records(client, records), churn.schema)) == 4
