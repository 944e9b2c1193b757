"""Leaks that are planted are found, and named with what to do; real data without one is left alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets

from bundle.bundle_factories import titanic
from data.data_factories import make_pod_job
from kubeautoml.api.trials import DataFacts, StudyAttr
from kubeautoml.study import create_study, open_study_storage, study_attr
from kubeautoml_trainer import worker
from kubeautoml_trainer.data.prepare import prepare_frames


def warned(
    frame: pd.DataFrame, test: pd.DataFrame | None = None, *, numbers: bool = False, **spec: object
) -> tuple[str, ...]:
    """The warnings about this data; the target is called "target"."""
    kind = "TabularRegression" if numbers else "TabularClassification"
    job = make_pod_job(task={"type": kind, "target": "target"}, **spec)
    if test is not None:
        job = job.model_copy(update={"dataset": job.dataset.model_copy(update={"test": job.dataset.train})})
    return prepare_frames(frame, test, job)[0].profile.warnings


def by_split(**split: object) -> dict[str, object]:
    return {"dataset": {"train": {"uri": "file:///nowhere/shop.csv"}, "split": split}}


def real(name: str) -> pd.DataFrame:
    if name == "titanic":
        return titanic(2207).rename(columns={"survived": "target"})
    found = getattr(datasets, f"load_{name}")(as_frame=True).frame
    return found if name == "diabetes" else found.assign(target=found["target"].astype(str))


def make_frame(rows: int = 600, seed: int = 0) -> pd.DataFrame:
    """Numbers and a category, of which the target of two classes holds a little."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=rows), rng.normal(size=rows)
    shop = rng.choice(["north", "south", "east"], rows)
    yes = a + (shop == "north") + rng.normal(size=rows) > 0.3
    return pd.DataFrame({"a": a, "b": b, "shop": shop, "target": np.where(yes, "yes", "no")})


def make_numbers(rows: int = 600) -> pd.DataFrame:
    frame = make_frame(rows)
    return frame.assign(target=frame["a"] * 3 + np.random.default_rng(1).normal(size=rows))


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "titanic", "digits"])
def test_real_classes_without_a_leak_are_left_alone(name: str) -> None:
    """No sentence about leaks, drift or duplicates; digits has pixels that are always white, which is said."""
    found = [w for w in warned(real(name)) if "have one value" not in w]

    assert found == []


def test_real_numbers_without_a_leak_are_left_alone() -> None:
    """Diabetes, whose target is a number."""
    assert warned(real("diabetes"), numbers=True) == ()


@pytest.mark.parametrize("numbers", [False, True], ids=["classes", "numbers"])
def test_made_data_without_a_leak_is_left_alone(numbers: bool) -> None:
    """Also by time and by group, where the rows are drawn alike."""
    frame = make_numbers() if numbers else make_frame()
    frame = frame.assign(when=np.random.default_rng(2).permutation(600), team=np.arange(600) % 40)

    assert warned(frame.drop(columns=["when", "team"]), numbers=numbers) == ()
    assert warned(frame.drop(columns="when"), numbers=numbers, **by_split(groupColumn="team")) == ()


def test_a_column_that_tells_three_classes_is_a_giveaway() -> None:
    """Not in order, so that no correlation shows it."""
    frame = make_frame()
    kind = np.random.default_rng(3).integers(0, 3, 600)
    code = np.array([5.0, 1.0, 9.0])[kind] + np.random.default_rng(4).normal(size=600) / 10

    found = warned(frame.assign(target=np.array(["x", "y", "z"])[kind], code=code))

    assert found == ("column 'code' alone predicts 'target'; make sure it is known at prediction time",)


@pytest.mark.parametrize("how", ["copy", "root", "square around the middle", "word"])
def test_a_column_that_tells_a_number_is_a_giveaway(how: str) -> None:
    """By its ranks, by any other function of it, or as a word for it."""
    frame = make_numbers()
    y = frame["target"]
    planted = {
        "copy": y * 2 + 1,
        "root": np.cbrt(y),
        "square around the middle": np.sign(np.random.default_rng(5).normal(size=600)) * np.sqrt(y - y.min()),
        "word": (y.round() % 7).map(lambda v: f"kind {v:.0f}"),
    }[how]
    target = y.round() % 7 if how == "word" else y

    found = warned(frame.assign(target=target, told=planted), numbers=True)

    assert "column 'told' alone predicts 'target'; make sure it is known at prediction time" in found


def test_a_target_of_a_few_huge_values_does_not_hide_its_giveaway() -> None:
    """Their squares outweigh all others, the order does not."""
    frame = make_numbers()

    found = warned(frame.assign(target=10 ** (10 * frame["a"]), told=frame["a"] ** 3).drop(columns="a"), numbers=True)

    assert "column 'told' alone predicts 'target'; make sure it is known at prediction time" in found


@pytest.mark.parametrize("share", [0.02, 0.12, 0.5])
def test_a_giveaway_that_is_not_clean_is_found_for_rare_classes_too(share: float) -> None:
    """Both classes take turns at the border: an AUC of 0.996 or more."""
    rows, positive = 2000, int(2000 * share)
    yes = np.r_[np.zeros(rows - positive, dtype=bool), np.ones(positive, dtype=bool)]
    border = np.arange(int(0.08 * np.sqrt(positive * (rows - positive))))
    score = np.arange(rows, dtype=float)
    score[rows - positive + border] = rows - positive - 0.5 - border
    order = np.random.default_rng(11).permutation(rows)
    frame = make_frame(rows).assign(target=np.where(yes, "yes", "no")[order], score=score[order])

    assert "column 'score' alone predicts 'target'; make sure it is known at prediction time" in warned(frame)


def test_a_gap_that_tells_the_class_is_a_giveaway() -> None:
    """Such as the date of the contract, which only those have who signed one."""
    frame = make_frame()
    signed = np.where(frame["target"] == "yes", frame["b"], np.nan)

    assert "column 'signed' alone predicts 'target'; make sure it is known at prediction time" in warned(
        frame.assign(signed=signed)
    )


def test_few_rows_of_a_class_are_no_giveaway_by_chance() -> None:
    """Four of 4,000 rows are told by many a column, and nothing follows from it."""
    rng = np.random.default_rng(6)
    frame = pd.DataFrame(rng.normal(size=(4000, 30)), columns=[f"c{k}" for k in range(30)])

    found = warned(frame.assign(target=np.where(np.arange(4000) % 1000 == 7, "fraud", "fine")))

    assert [w for w in found if "alone" in w] == []


def test_entities_that_share_their_target_are_named_as_a_group_column() -> None:
    """Every patient has several rows and one diagnosis; the patient is no giveaway for new patients, but one within a split."""
    patient = np.arange(600) // 4
    ill = np.random.default_rng(7).random(150) < 0.4
    frame = make_frame().assign(
        target=np.where(ill[patient], "ill", "well"), patient=[f"p{v * 7919 % 1000}" for v in patient]
    )
    said = (
        "rows with the same 'patient' share their 'target'; set spec.dataset.split.groupColumn to 'patient', or scores tell only "
        "how well they are remembered"
    )

    assert said in warned(frame)
    assert said not in warned(frame, **by_split(groupColumn="patient"))


def test_a_number_that_counts_the_rows_is_named() -> None:
    """Its name does not say what it is."""
    said = (
        "column 'position' numbers the rows in their order, as an identifier does; name it in spec.dataset.columns.ignore unless "
        "new rows have it, too"
    )

    assert said in warned(make_frame().assign(position=np.arange(600) * 3 + 1000))


def test_copies_on_both_sides_of_a_split_are_counted() -> None:
    """A fifth of the rows twice: the shares are of the rows that are predicted."""
    frame = make_frame(500)
    found = warned(pd.concat([frame, frame.head(100)], ignore_index=True))

    assert any("of the validation rows are copies of others that a model is trained on" in w for w in found)
    assert any(
        "of the hold-out rows are copies of training rows; its scores are too good: remove duplicates" in w
        for w in found
    )


def test_rows_that_look_alike_and_differ_in_their_target_are_no_copies() -> None:
    """Two categories leave nothing but twins."""
    rng = np.random.default_rng(8)
    frame = pd.DataFrame({"a": rng.choice(["u", "v"], 600), "b": rng.choice(["s", "t"], 600)})

    assert warned(frame.assign(target=np.where(rng.random(600) < 0.5, "yes", "no"))) == ()


def test_a_test_file_of_another_kind_is_told_apart_by_its_columns() -> None:
    """The columns that differ are named, the others are not."""
    train, test = make_frame(800), make_frame(400, seed=9)

    assert warned(train, test) == ()
    moved = warned(train, test.assign(b=test["b"] + 1.5))
    assert len(moved) == 1
    assert moved[0].startswith("training rows and hold-out can be told apart (AUC 0.8") and moved[0].endswith(
        "most by 'b'; the test file is of another kind: draw both alike, or leave these columns out"
    )


def test_a_hold_out_that_is_later_may_differ() -> None:
    """With a split by time that is what it is for."""
    frame = make_frame(800)
    frame["b"] += np.arange(800) / 200

    found = warned(frame.assign(when=np.arange(800)), **by_split(timeColumn="when"))

    assert any("that is expected of a split by time" in w and "'b'" in w for w in found)


def test_a_target_that_changes_along_the_file_is_told() -> None:
    """Unless the file is sorted by it, which says nothing."""
    rng = np.random.default_rng(10)
    late = np.arange(1000) / 1000 > rng.random(1000)
    frame = make_frame(1000).assign(target=np.where(late, "yes", "no"))

    found = warned(frame)

    assert len(found) == 1
    assert found[0].startswith("the share of class 'no' goes from 9") and found[0].endswith(
        "in the last; if the rows are in order of time, set spec.dataset.split.timeColumn"
    )
    assert warned(frame.sort_values("target", ignore_index=True)) == ()
    growing = make_numbers(1000).assign(target=lambda f: f["target"] + np.arange(1000) / 100)
    assert any("the mean of 'target' goes from" in w for w in warned(growing, numbers=True))


def test_columns_that_hold_next_to_nothing_are_listed() -> None:
    """With the share that is missing."""
    i = np.arange(2000)
    frame = make_frame(2000).assign(gap=np.where(i % 100 == 0, i * 7 % 13, np.nan), flat=np.where(i == 77, 5, 4))

    assert warned(frame) == (
        "columns gap (98.9%) are missing in nearly all rows; leave them out unless a gap says something",
        "columns flat have one value in at least 99.9% of the rows; leave them out unless the rare value matters",
    )


def test_the_status_holds_the_worst_and_says_how_many_more_there_are(tmp_path) -> None:
    """Leaks come before everything else."""
    frame = make_frame().assign(
        copy=lambda f: f["target"] + "!",
        **{f"w{k}": np.where(np.arange(600) % 100 == k, "unknown", np.arange(600) * 7 % 97) for k in range(6)},
    )
    data, _ = prepare_frames(frame, None, make_pod_job(target="target"))
    study = create_study(open_study_storage(f"journal://{tmp_path}/study", None, None), "s", "maximize")

    worker.tell_data(study, data, 1.0)

    facts = study_attr(study, StudyAttr.DATA)
    assert isinstance(facts, DataFacts)
    assert facts.warnings[0] == "column 'copy' alone predicts 'target'; make sure it is known at prediction time"
    assert facts.warnings[-1] == "2 more in the report" and len(facts.warnings) == 6
