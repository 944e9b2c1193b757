"""The data ready for trials: the same on every pod, checked against what the first one stored."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data.data_factories import make_context, make_pod_job, make_rows, regression
from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import DataError
from kubeautoml.storage import open_store
from kubeautoml_trainer.data import prepare as module
from kubeautoml_trainer.data.base import PreparedData
from kubeautoml_trainer.data.prepare import prepare, prepare_frames
from kubeautoml_trainer.data.profile import profile_from_json, profile_to_json
from kubeautoml_trainer.data.schema import coerce


def ready(raw: pd.DataFrame, test: pd.DataFrame | None = None, **spec: Any) -> PreparedData:
    return prepare_frames(raw, test, make_pod_job(**spec))[0]


def dataset(**fields: Any) -> dict[str, Any]:
    return {"dataset": {"train": {"uri": "file:///nowhere/shop.csv"}, **fields}}


TEST = {"test": {"uri": "file:///nowhere/test.csv"}}


def test_training_rows_are_typed_as_any_rows_are():
    """What a model learned from equals what the same rows give when they come as a request."""
    raw = make_rows(60, day=pd.Series(["2024-01-31", "2024-02-01"] * 30, dtype="str"))
    data, assignment = prepare_frames(raw, None, make_pod_job())

    again = coerce(raw, data.schema)

    pd.testing.assert_frame_equal(again[~assignment.holdout].reset_index(drop=True), data.train.frame)
    pd.testing.assert_frame_equal(again[assignment.holdout].reset_index(drop=True), data.holdout.frame)
    assert (len(data.train), len(data.holdout), data.profile.folds) == (48, 12, 7)


def test_a_second_pod_uses_what_the_first_one_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It splits and profiles nothing, and finds the same rows in the same order."""
    make_rows(60).to_csv(tmp_path / "shop.csv", index=False)
    context = make_context(make_pod_job(tmp_path), tmp_path)
    first = prepare(context)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("drawn twice")

    monkeypatch.setattr(module, "assign", refuse)
    monkeypatch.setattr(module, "infer_column", refuse)
    second = prepare(context)

    assert second.profile == first.profile
    assert np.array_equal(second.fold, first.fold)
    pd.testing.assert_frame_equal(second.train.frame, first.train.frame)
    assert np.array_equal(second.holdout.y, first.holdout.y)


def test_folds_follow_the_time_there_is_and_then_stay(tmp_path: Path):
    """A minute is enough for eight folds of 1,000 rows, a second is not; a pod that comes after an edit of the budget keeps the first's."""
    make_rows(1000).to_csv(tmp_path / "shop.csv", index=False)
    context = make_context(make_pod_job(tmp_path), tmp_path)

    assert prepare_frames(make_rows(1000), None, context.job, budget_seconds=60)[0].profile.folds == 8
    assert prepare_frames(make_rows(1000), None, context.job)[0].profile.folds == 8
    first, later = prepare(context, 1.0), prepare(context, 3600.0)

    assert (first.profile.folds, later.profile.folds) == (5, 5)
    assert np.array_equal(first.fold, later.fold)


def test_a_text_counts_as_many_values_as_it_has_words():
    """Ten minutes are enough for 2,000 numbers in eight folds, and not for as many texts of 600 words."""
    rows = make_rows(2000)
    told = rows.assign(story=["word " * 600] * 1000 + ["other " * 600] * 1000)

    assert prepare_frames(rows, None, make_pod_job(), budget_seconds=600)[0].profile.folds == 8
    assert prepare_frames(told, None, make_pod_job(), budget_seconds=600)[0].profile.folds == 5


def test_stored_folds_name_row_fold_and_hold_out(tmp_path: Path):
    """A person or another tool can draw the same rows from the file."""
    make_rows(60).to_csv(tmp_path / "shop.csv", index=False)
    job = make_pod_job(tmp_path)

    data = prepare(make_context(job, tmp_path))

    stored = pd.read_parquet(io.BytesIO(open_store(job.paths.folds).read(job.paths.folds)))
    assert list(stored.columns) == ["row", "fold", "holdout"]
    assert stored["row"].tolist() == list(range(60))
    assert stored.loc[~stored["holdout"], "fold"].tolist() == data.fold.tolist()


def test_two_pods_that_start_together_store_the_same_bytes(tmp_path: Path):
    """So it does not matter whose write comes last."""
    make_rows(60).to_csv(tmp_path / "shop.csv", index=False)
    job = make_pod_job(tmp_path)
    store = open_store(job.output.uri)

    written = []
    for _ in range(2):
        prepare(make_context(job, tmp_path))
        written.append((store.read(job.paths.profile), store.read(job.paths.folds)))
        store.delete(job.paths.profile)

    assert written[0] == written[1]


def test_data_that_changed_during_the_job_is_refused(tmp_path: Path):
    """One value is enough."""
    raw = make_rows(60)
    raw.to_csv(tmp_path / "shop.csv", index=False)
    context = make_context(make_pod_job(tmp_path), tmp_path)
    prepare(context)

    raw.assign(age=[*raw["age"][:-1], "99"]).to_csv(tmp_path / "shop.csv", index=False)

    with pytest.raises(DataError) as caught:
        prepare(context)

    said = (
        f"the data at file://{tmp_path}/shop.csv has changed since the job started; "
        "trials on different rows cannot be compared: create a new job"
    )
    assert (caught.value.reason, str(caught.value)) == (Reason.INVALID_DATA, said)


def test_a_profile_survives_json():
    """Also its warnings and its schema."""
    profile = ready(make_rows(60, one="x")).profile

    assert profile_from_json(profile_to_json(profile)) == profile


def test_infinite_features_become_missing():
    """With a warning, and only in files: a request with an infinity is refused."""
    age = pd.Series([*map(str, range(58)), "inf", "-inf"], dtype="str")

    data = ready(make_rows(60, age=age))

    assert np.isnan(data.train.frame["age"]).sum() + np.isnan(data.holdout.frame["age"]).sum() == 2
    assert "column 'age' holds 2 infinite values; they count as missing" in data.profile.warnings


def test_weights_have_mean_one_in_each_part():
    """The weight is no feature."""
    data = ready(make_rows(60, w=[1.0, 2.0, 4.0] * 20), **dataset(columns={"weight": "w"}))

    assert "w" not in data.train.frame
    for rows in (data.train, data.holdout):
        assert rows.weight is not None
        assert rows.weight.mean() == pytest.approx(1.0)
    assert sorted(set((data.train.weight / data.train.weight.min()).round(9))) == [1.0, 2.0, 4.0]


def test_ignored_and_group_columns_are_no_features():
    """A group is what must not be learned by heart."""
    rows = make_rows(60, shop=[f"s{i % 12}" for i in range(60)], junk=[[1]] * 60)

    data = ready(rows, **dataset(columns={"ignore": ["junk"]}, split={"groupColumn": "shop"}))

    assert [c.name for c in data.schema.columns] == ["age", "city"]
    assert data.groups is not None
    assert len(data.groups) == len(data.train)
    assert data.holdout.groups is not None
    assert not set(data.groups) & set(data.holdout.groups)
    assert sorted([*data.groups, *data.holdout.groups]) == sorted(rows["shop"])


def test_rows_are_held_out_by_time():
    """The newest fifth, whatever the order of the file."""
    day = pd.Series([f"{1 + i % 28:02d}.{1 + i // 28:02d}.2024" for i in range(60)][::-1], dtype="str")
    data = ready(make_rows(60, day=day), **dataset(split={"type": "Time", "timeColumn": "day"}))

    assert data.train.frame["day"].max() <= data.holdout.frame["day"].min()
    assert data.fold.min() == -1


def test_a_test_file_is_the_hold_out():
    """All its rows with a target, typed and coded as the training rows are; nothing else is held out."""
    test = make_rows(15, bought=[" yes", "no", None] * 5)[["bought", "city", "age"]]

    data = ready(make_rows(60), test, **dataset(**TEST))

    assert (len(data.train), len(data.holdout)) == (60, 10)
    assert data.holdout.y.tolist() == [1, 0] * 5
    assert list(data.holdout.frame.columns) == ["age", "city"]


@pytest.mark.parametrize(
    ("test", "task", "message"),
    [
        (
            make_rows(12).drop(columns="bought"),
            {},
            "spec.task.target (dataset.test): column 'bought' is not in the data; columns: age, city",
        ),
        (
            make_rows(12).drop(columns="city"),
            {},
            "file:///nowhere/test.csv: column 'city' must be given (null where unknown), got columns age, bought",
        ),
        (
            make_rows(12, age="old"),
            {},
            "file:///nowhere/test.csv: column 'age' must be a number, got 'old' in row 0",
        ),
        (
            make_rows(12, bought="maybe"),
            {},
            "file:///nowhere/test.csv: class 'maybe' of 'bought' is not among the training rows, which have no, yes",
        ),
        (
            make_rows(12, bought=None),
            {},
            "file:///nowhere/test.csv has no row with a value of 'bought'",
        ),
        (
            make_rows(12, age="old"),
            regression("age"),
            "file:///nowhere/test.csv: 'age' must hold finite numbers, got 'old' in row 0",
        ),
    ],
)
def test_a_test_file_that_does_not_fit_is_refused(test: pd.DataFrame, task: dict[str, Any], message: str):
    """The file is named, and what does not fit."""
    with pytest.raises(DataError) as caught:
        ready(make_rows(60), test, **{**dataset(**TEST), **task})

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("raw", "fields", "message"),
    [
        (
            make_rows(60),
            {"columns": {"types": {"agee": "Number"}}},
            "spec.dataset.columns: column 'agee' is not in the data; did you mean 'age'? columns: age, city, bought",
        ),
        (
            make_rows(60),
            {"columns": {"weight": "city"}},
            "spec.dataset.columns.weight: column 'city' must hold numbers of at least 0, got 'Bonn' in row 0",
        ),
        (
            make_rows(60, age="7", city="Bonn"),
            {},
            "no column but 'bought' can be learned from; found: age (Constant), city (Constant)",
        ),
        (
            make_rows(60),
            {"split": {"type": "Time", "timeColumn": "city"}},
            "spec.dataset.split.timeColumn: column 'city' must hold dates or numbers, got 'Bonn' in row 0",
        ),
        (
            make_rows(60, bought=["no"] * 45 + ["yes"] * 15, t=range(60)),
            {"split": {"type": "Time", "timeColumn": "t", "testFraction": "0.3"}},
            "spec.dataset.split: a Time split keeps all rows of class 'yes' for the hold-out, so they cannot be learned; "
            "add rows, or choose another split.type",
        ),
    ],
)
def test_a_manifest_that_does_not_fit_the_data_is_explained(raw: pd.DataFrame, fields: dict[str, Any], message: str):
    """The field, the column, the rule, and what is possible."""
    with pytest.raises(DataError) as caught:
        ready(raw, **dataset(**fields))

    assert str(caught.value) == message


def test_what_an_author_should_know_is_warned_of():
    """Unused columns, giveaways, duplicates, and classes that the hold-out cannot judge."""
    bought = ["no", "yes"] * 29 + ["rare", "rare"]
    raw = make_rows(60, bought=bought, copy=[f"is {b}" for b in bought], ref=[f"r{i}" for i in range(60)], one="x")

    warnings = ready(raw).profile.warnings

    assert warnings == (
        "column 'copy' alone predicts 'bought'; make sure it is known at prediction time",
        "columns ref look like identifiers and are not used",
        "columns one have one value or none and are not used",
        "the hold-out has no row of class 'rare'; scores on it say nothing about them",
    )


def test_copies_of_rows_are_warned_of():
    """They would stand on both sides of a split."""
    raw = pd.concat([make_rows(60), make_rows(60)], ignore_index=True)

    assert ready(raw).profile.warnings[:2] == (
        "71% of the validation rows are copies of others that a model is trained on; scores are too good: remove duplicates, "
        "or keep them together by spec.dataset.split.groupColumn",
        "75% of the hold-out rows are copies of training rows; its scores are too good: remove duplicates",
    )


def test_a_number_that_is_the_target_is_a_giveaway():
    """For numbers by correlation."""
    raw = make_rows(60, price=[str(3 * (20 + i % 37) + 1) for i in range(60)])

    said = "column 'price' alone predicts 'age'; make sure it is known at prediction time"
    assert said in ready(raw, **regression("age")).profile.warnings
