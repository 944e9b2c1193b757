"""Data that breaks other systems: every job ends with a model that predicts, or with one sentence that says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kubeautoml_trainer.data.read import read_bytes
from robust.robust_factories import Ended, must_predict, run_job

RNG_SEED = 5


def make_frame(rows: int = 80, **columns: object) -> pd.DataFrame:
    """Two numbers and a category that say something of a target of two classes; keywords replace or add columns."""
    rng = np.random.default_rng(RNG_SEED)
    x, z = rng.normal(size=rows), rng.normal(size=rows)
    colour = rng.choice(["red", "green", "blue"], rows)
    target = np.where(x + (colour == "red") + 0.3 * rng.normal(size=rows) > 0, "yes", "no")
    return pd.DataFrame({"x": x, "z": z, "colour": colour, "target": target} | columns)


def numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """The same for regression."""
    return frame.assign(target=3.0 * frame["x"] + frame["z"] + 10)


def more_columns_than_rows() -> pd.DataFrame:
    rng = np.random.default_rng(RNG_SEED)
    wide = pd.DataFrame(rng.normal(size=(40, 120)), columns=[f"c{k}" for k in range(120)])
    return wide.assign(target=np.where(wide["c0"] + wide["c1"] > 0, "up", "down"))


def two_rows_a_class() -> pd.DataFrame:
    rng = np.random.default_rng(RNG_SEED)
    classes = np.repeat([f"k{i}" for i in range(12)], 2)
    return pd.DataFrame(
        {"a": rng.normal(size=24) + np.repeat(np.arange(12), 2), "b": rng.normal(size=24), "target": classes}
    )


def a_thousand_classes() -> pd.DataFrame:
    k = np.repeat(np.arange(1000), 2)
    rng = np.random.default_rng(RNG_SEED)
    return pd.DataFrame({"a": k + rng.normal(size=2000), "b": k % 31, "target": [f"class {i}" for i in k]})


def a_category_of_many_levels() -> pd.DataFrame:
    """Drawn from 100,000: nearly one a row, and validation rows hold others than training rows."""
    rng = np.random.default_rng(RNG_SEED)
    level = rng.integers(0, 100_000, 1500)
    return make_frame(1500, shop=[f"shop {v}" for v in level])


def a_constant_target_in_one_fold() -> pd.DataFrame:
    """By time: only the last rows hold both classes."""
    frame = make_frame(120)
    late = np.arange(120) >= 60
    return frame.assign(target=np.where(late, frame["target"], "no"), when=np.arange(120))


def heavy_imbalance() -> pd.DataFrame:
    """One in 10,000: a row a fold, and none for the hold-out."""
    rng = np.random.default_rng(RNG_SEED)
    rows = 20_000
    fraud = np.zeros(rows, dtype=int)
    fraud[rng.choice(rows, 2, replace=False)] = 1
    return pd.DataFrame({"a": rng.normal(size=rows) + 3 * fraud, "b": rng.normal(size=rows), "target": fraud})


def dates_before_1970() -> pd.DataFrame:
    days = pd.to_datetime("1899-12-28") + pd.to_timedelta(np.arange(80) * 400, unit="D")
    return make_frame(
        born=days.strftime("%Y-%m-%d"),
        ends=["2263-01-01 00:00:00.000002" if i % 2 else f"{2290 + i}-12-31" for i in range(80)],
        told=[f"{1 + i % 28:02}.{1 + i % 12:02}.{1890 + i}" for i in range(80)],
    )


def huge_numbers() -> pd.DataFrame:
    rng = np.random.default_rng(RNG_SEED)
    values = rng.normal(size=80)
    return make_frame(
        giant=values * 1e300,
        mixed=np.where(np.arange(80) % 7 == 0, 1.7e308, values),
        tiny=values * 1e-310,
        endless=np.where(np.arange(80) % 5 == 0, np.inf, values),
        low=np.where(np.arange(80) % 9 == 0, -np.inf, -1e308),
    )


def missing_in_a_fold() -> pd.DataFrame:
    """By time: columns begin late, so that the first training parts hold no value of them."""
    frame = make_frame(120)
    late = np.arange(120) >= 80
    return frame.assign(
        when=np.arange(120),
        sensor=np.where(late, frame["z"], np.nan),
        mode=np.where(late, frame["colour"], None),
        note=np.where(late, [f"a long note about the thing {i} and others" for i in range(120)], None),
        seen=np.where(late, "2024-01-01", None),
        flag=np.where(late, np.where(frame["x"] > 0, "true", "false"), None),
    )


def odd_names() -> pd.DataFrame:
    rng = np.random.default_rng(RNG_SEED)
    names = [
        "a b", 'say "hi"', "it's", "ünï→côdé", "1", "2.5", "[x]", "a,b", "{json}", "x:y", "a<b", " lead", "trail ", "feature_1",
        "Target", "weight", "index", "tab\there", "__class__", "日本語", "a\\b", "", "-", "nan", "None",
    ]  # fmt: skip
    frame = pd.DataFrame(rng.normal(size=(80, len(names))), columns=names)
    return frame.assign(target=np.where(frame["a b"] > 0, "yes", "no"))


def boolean_like() -> pd.DataFrame:
    i = np.arange(80)
    return make_frame(
        b1=np.array(["Yes", "no"])[i % 2],
        b2=np.array(["TRUE", "False", ""])[i % 3],
        b3=np.array(["t", "f"])[i % 2],
        b4=np.array(["1", "0", "yes"])[i % 3],
        b5=np.array(["on", "off", "n/a"])[i % 3],
    )


def mixed_types() -> pd.DataFrame:
    i = np.arange(80)
    return make_frame(
        m1=[str(v) if v % 3 else f"no {v}" for v in i],
        m2=[["1", "1.0", "one", "", "2020-01-01", "true"][v % 6] for v in i],
        m3=[("12" if v % 40 else "> 100") for v in i + 1],
        m4=["007", "7", "7.0", "7e0"] * 20,
    )


def one_feature() -> pd.DataFrame:
    return make_frame()[["x", "target"]]


def all_alike() -> pd.DataFrame:
    """Every row has the same features; only the classes differ."""
    return pd.DataFrame({"a": ["1", "2"] * 2 + ["1"] * 56, "target": ["no", "yes"] * 30}).assign(a="1")


def the_same_rows() -> pd.DataFrame:
    return pd.DataFrame({"a": [1, 2] * 30, "b": ["u", "v"] * 30, "target": ["no", "yes"] * 30})


def columns_twice() -> pd.DataFrame:
    frame = make_frame()
    return frame.assign(x2=frame["x"], x3=frame["x"], colour2=frame["colour"])


def missing_targets() -> pd.DataFrame:
    frame = make_frame(100)
    return frame.assign(target=np.where(np.arange(100) % 4 == 0, None, frame["target"]))


def zero_weights() -> pd.DataFrame:
    return make_frame(w=np.where(np.arange(80) < 40, 0.0, 1.0))


def every_kind_missing() -> pd.DataFrame:
    frame = make_frame()
    return frame.assign(x=None, empty="", z=np.where(np.arange(80) == 3, frame["z"], np.nan))


MODELS: dict[str, tuple[Callable[[], pd.DataFrame], dict[str, object]]] = {
    "more columns than rows": (more_columns_than_rows, {}),
    "two rows a class": (two_rows_a_class, {}),
    "a thousand classes": (
        a_thousand_classes,
        {"quick": {"LightGBM": {"iterations": 1}, "XGBoost": {"iterations": 1}}},
    ),
    "a category of many levels": (a_category_of_many_levels, {}),
    "a constant target in one fold": (a_constant_target_in_one_fold, {"split": {"timeColumn": "when", "folds": 3}}),
    "heavy imbalance": (heavy_imbalance, {}),
    "dates before 1970": (dates_before_1970, {}),
    "huge numbers": (huge_numbers, {"explained": True}),
    "missing in a fold": (missing_in_a_fold, {"split": {"timeColumn": "when", "folds": 3}}),
    "odd names": (odd_names, {}),
    "boolean-like texts": (boolean_like, {}),
    "mixed types": (mixed_types, {}),
    "one feature": (one_feature, {}),
    "the same rows": (the_same_rows, {}),
    "columns twice": (columns_twice, {}),
    "missing targets": (missing_targets, {}),
    "zero weights": (zero_weights, {"columns": {"weight": "w"}}),
    "every kind missing": (every_kind_missing, {}),
    "numbers: plain": (lambda: numbers(make_frame()), {"is_classes": False}),
    "numbers: huge features": (lambda: numbers(huge_numbers()), {"is_classes": False}),
    "numbers: large target": (lambda: make_frame(target=np.linspace(-1e30, 1e30, 80)), {"is_classes": False}),
    "numbers: tiny target": (lambda: make_frame(target=np.linspace(1e-300, 1e-299, 80)), {"is_classes": False}),
    "numbers: a constant fold": (
        lambda: make_frame(120, target=np.where(np.arange(120) < 60, 5.0, np.arange(120)), when=np.arange(120)),
        {"is_classes": False, "split": {"timeColumn": "when", "folds": 3}},
    ),
    "numbers: missing in a fold": (
        lambda: numbers(missing_in_a_fold()),
        {"is_classes": False, "split": {"timeColumn": "when", "folds": 3}, "explained": True},
    ),
    "numbers: more columns than rows": (
        lambda: more_columns_than_rows().assign(target=lambda f: f["c0"] * 3),
        {"is_classes": False},
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_difficult_data_ends_in_a_model_that_predicts(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every family that takes the data learns something from it, and what it learned can be loaded and asked."""
    make, spec = MODELS[case]
    data = make()

    ended: Ended = run_job(tmp_path, monkeypatch, data, **spec)

    assert ended.errors == {}
    must_predict(ended, raw_rows(tmp_path).head(7))
    assert len(ended.families) >= 2
    assert "the report could not be written" not in caplog.text


def raw_rows(folder: Path) -> pd.DataFrame:
    """The file's rows as a request would give them: finite numbers or null, texts."""
    path = folder / "train.csv"
    return read_bytes(path.read_bytes(), path.name).replace({"inf": None, "-inf": None})


REASONS: dict[str, tuple[Callable[[], pd.DataFrame], dict[str, object], str]] = {
    "all rows alike": (
        all_alike,
        {},
        "no column but 'target' can be learned from; found: a (Constant)",
    ),
    "no feature": (
        lambda: make_frame()[["target"]],
        {},
        "no column but 'target' can be learned from; found: none",
    ),
    "free text as target": (
        lambda: make_frame(2000, target=[f"a story about number {i} and more" for i in range(2000)]),
        {},
        "spec.task.target: column 'target' has 2000 different values, nearly one a row, as texts or identifiers "
        "have; a class must occur in many rows: choose another target",
    ),
    "free text as a number": (
        lambda: make_frame(target=[f"a story about number {i} and more" for i in range(80)]),
        {"is_classes": False},
        "spec.task.target: column 'target' must hold numbers for TabularRegression, got 'a story about number 0 and more'; "
        "for classes use TabularClassification",
    ),
    "no target at all": (
        lambda: make_frame(target=None),
        {},
        "spec.task.target: column 'target' has no value in any row",
    ),
    "one class": (
        lambda: make_frame(target="yes"),
        {},
        "spec.task.target: column 'target' has the same value, 'yes', in every row; there is nothing to learn",
    ),
    "a class of one row": (
        lambda: make_frame(target=["a"] * 40 + ["b"] * 39 + ["c"]),
        {},
        "spec.task.target: column 'target' must have at least two rows of each class, 'c' has one; add rows or remove the class",
    ),
    "an infinite target": (
        lambda: make_frame(target=[np.inf, *range(79)]),
        {"is_classes": False},
        "spec.task.target: column 'target' must hold finite numbers, 1 values are infinite; remove those rows",
    ),
    "a huge target": (
        lambda: make_frame(target=np.linspace(-1e300, 1e300, 80)),
        {"is_classes": False},
        "spec.task.target: column 'target' must hold numbers between -1e+37 and 1e+37, 80 are beyond; divide the column",
    ),
    "weights of zero": (
        lambda: make_frame(w=0),
        {"columns": {"weight": "w"}},
        "spec.dataset.columns.weight: column 'w' must hold numbers of at least 0, and not only 0",
    ),
    "a negative weight": (
        lambda: make_frame(w=[-1] + [1] * 79),
        {"columns": {"weight": "w"}},
        "spec.dataset.columns.weight: column 'w' must hold numbers of at least 0, got '-1' in row 0",
    ),
    "the same name twice": (
        lambda: make_frame().rename(columns={"z": "x"}),
        {},
        "column names must be different, but more than one column is named 'x'; rename them",
    ),
    "nine rows": (
        lambda: make_frame(9),
        {},
        "the data must have at least 10 rows with a value of 'target', got 9",
    ),
    "a target under another name": (
        lambda: make_frame().rename(columns={"target": "Target"}),
        {},
        "spec.task.target: column 'target' is not in the data; did you mean 'Target'? columns: x, z, colour, Target",
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_data_that_nothing_can_be_learned_from_ends_in_one_sentence(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason is in the study, where the operator finds it, and is the last line of the pod."""
    make, spec, words = REASONS[case]

    ended = run_job(tmp_path, monkeypatch, make(), **spec)

    assert ended.result is None and ended.failure is not None
    assert ended.why.removeprefix(f"file://{tmp_path}/train.csv: ") == words
    assert "\n" not in ended.why and ended.failure.stage == "data"
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {ended.why}"
