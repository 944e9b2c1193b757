"""The report: one page that needs nothing else, says what was found, and escapes everything that is not ours."""

from __future__ import annotations

import ast
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from bundle.bundle_factories import make_pod_job
from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Column, Profile, Rows, Schema
from kubeautoml_trainer.report import importance
from kubeautoml_trainer.report.export import export_pipeline
from kubeautoml_trainer.report.importance import Importance, permutation_importance
from kubeautoml_trainer.report.leaderboard import Ranked, leaderboard_csv
from kubeautoml_trainer.report.page import ReportFacts, report_page
from kubeautoml_trainer.tasks import task_for

EVIL = """</script><img src=x onerror=alert(1)>'"&${1}$_{x}$\n"""
VOID = {"meta", "br", "img", "hr", "link", "input"}


def make_facts(
    classes=("no", "yes"), *, column="age", rows=120, trials=12, warnings=("33% of the rows are copies",), **changes
):
    """Facts of a small job; numbers when there are no classes."""
    rng = np.random.default_rng(0)
    target = "price" if not classes else "bought"
    task_type = TaskType.TABULAR_CLASSIFICATION if classes else TaskType.TABULAR_REGRESSION
    columns = (
        Column(column, ColumnType.NUMBER, unique=50),
        Column("city", ColumnType.CATEGORY, levels=("a", "b"), unique=2),
    )
    schema = Schema(target, columns, tuple(classes), classes[-1] if len(classes) == 2 else None)
    task = task_for(task_type, schema)
    frame = pd.DataFrame({column: rng.random(rows), "city": pd.Series(["a", "b"] * (rows // 2), dtype=object)})
    if classes:
        y = rng.integers(0, len(classes), rows)
        p = np.exp(2 * np.eye(len(classes))[y] + rng.normal(0, 1, (rows, len(classes))))
        prediction = p / p.sum(axis=1, keepdims=True)
    else:
        y = rng.normal(250_000, 40_000, rows)
        prediction = (y + rng.normal(0, 9_000, rows))[:, None]
    metrics = {m: task.score(m, y, prediction, None) for m in task.metrics}
    job = make_pod_job(target, task_type)
    values = rng.normal(0.8, 0.02, trials)
    board = [
        Ranked(k, "LightGBM", float(v), 0.8, 0.5 if k < 2 else 0.0, 1.2, 0.1, 250_000, {"learning_rate": 0.1})
        for k, v in enumerate(values)
    ]
    facts = ReportFacts(
        job=job,
        profile=Profile(schema, rows=480, holdout_rows=rows, folds=5, sha256="0" * 64, warnings=tuple(warnings)),
        task=task,
        holdout=Rows(frame, y),
        prediction=prediction,
        metrics=metrics,
        validated=metrics,
        best_single=0.79,
        leaderboard=board,
        trial_values=[(r.trial, r.family, r.value) for r in board],
        importance=[Importance(column, 0.1, 0.01, 3), Importance("city", -0.001, 0.002, 3)],
        latency_p99_ms=12.3,
        size_bytes=5_140_000,
        sha256="ab" * 32,
    )
    return replace(facts, **changes)


class Balanced(HTMLParser):
    """Checks that each element that is opened is closed, and collects text and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parse(page: str) -> Balanced:
    found = Balanced()
    found.feed(page)
    assert found.open == []
    return found


KINDS = {"two classes": ("no", "yes"), "many classes": tuple(f"class {k}" for k in range(14)), "numbers": ()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_is_whole_and_needs_nothing_else(kind):
    """Well-formed, no script, no reference to any other resource, all plots drawn."""
    page = report_page(make_facts(KINDS[kind]))
    found = parse(page)

    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    for name, value in found.attributes:
        if name.endswith(("href", "src")) or "url(" in (value or ""):
            assert (value or "").startswith(("#", "url(#", "data:image/png;")), (name, value)
    assert "@import" not in page
    assert found.tags.count("svg") == (4 if kind == "numbers" else 5)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_in_the_plots_are_unique_and_all_found(kind):
    """Plots stand in one page, so one's marker must not be another's."""
    page = report_page(make_facts(KINDS[kind]))
    ids = re.findall(r'\bid="([^"]+)"', page)

    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


def test_text_from_data_and_job_is_escaped():
    """Class names, column names, warnings, parameters: none becomes markup, and mathtext does not choke on a dollar."""
    facts = make_facts((EVIL, "yes"), column=EVIL, warnings=(EVIL,))
    board = [replace(r, family=EVIL, parameters={EVIL: EVIL}) for r in facts.leaderboard]
    values = [(r.trial, r.family, r.value) for r in board]

    found = parse(report_page(replace(facts, leaderboard=board, trial_values=values)))

    assert not {"script", "img"} & set(found.tags)
    assert any("<img src=x" in t for t in found.text)
    assert not [name for name, _ in found.attributes if name.startswith("on")]


def test_plots_are_well_formed_xml():
    """So that they can be taken out and used elsewhere."""
    found = re.findall(r"<svg.*?</svg>", report_page(make_facts()), flags=re.DOTALL)
    roots = [
        ET.fromstring(
            svg.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1)
            if "xmlns:xlink" not in svg
            else svg
        )
        for svg in found
    ]

    assert roots, "the report has plots"
    assert all(root.tag.endswith("svg") for root in roots)


def test_without_plots_the_numbers_are_still_there():
    """When time or matplotlib is missing."""
    page = report_page(make_facts(), with_plots=False)

    assert "<svg" not in page
    assert "What matters" in page and "<td>age</td>" in page


def test_the_page_says_it_in_plain_words():
    """What the model is, what it learned from, and how it compares with guessing."""
    classes, numbers = report_page(make_facts()), report_page(make_facts(()))

    assert "a weighted mean of 2 models (LightGBM), chosen from 12 completed trials" in classes
    assert "tried once on 120 rows that the search never saw" in classes
    assert re.search(r"\d+\.\d% of the hold-out rows were put in the right class", classes)
    assert "always guessing the middle value would be off by" in numbers
    assert "33% of the rows are copies" in classes


def test_a_long_leaderboard_is_cut_on_the_page():
    """The CSV file has all."""
    page = report_page(make_facts(trials=40))

    assert "15 more trials are in leaderboard.csv" in page


def test_one_trial_and_no_hold_out_rows_still_make_a_page():
    """The smallest job."""
    facts = make_facts(trials=1)
    empty = replace(
        facts, holdout=facts.holdout.take(np.arange(0)), prediction=facts.prediction[:0], metrics={}, importance=[]
    )

    found = parse(report_page(empty))

    assert any("There are no hold-out rows" in t for t in found.text)


def test_the_leaderboard_file_leaves_unknown_cells_empty():
    """Artifacts of old trials may be gone."""
    text = leaderboard_csv(
        [Ranked(3, "LightGBM", 0.91, parameters={"a,b": 'say "x"'}), Ranked(1, "Linear", 0.9, 0.88, 1.0)]
    )

    assert text.splitlines()[1] == '1,3,LightGBM,0.91,,0,,,,"{""a,b"": ""say \\""x\\""""}",,,'
    assert text.splitlines()[2] == "2,1,Linear,0.9,0.88,1,,,,{},,,"


@pytest.mark.parametrize("text", [EVIL, '"""', "'''", "\\", "$version", "\n# x"])
def test_nothing_in_a_job_becomes_code_in_the_exported_script(text):
    """All of it stands in literals, and comes back as it was."""
    job = make_pod_job(text, dataset={"train": {"uri": "file:///a"}, "columns": {"ignore": [text]}})
    script = export_pipeline(job, Ranked(3, "LightGBM", 0.91, parameters={text: text}), 11, 24)

    values = {n.targets[0].id: ast.literal_eval(n.value) for n in ast.parse(script).body if isinstance(n, ast.Assign)}
    assert values["PARAMETERS"] == {text: text}
    assert values["JOB"]["task"]["target"] == text
    assert values["SEED"] == 11


def test_the_exported_script_knows_neither_locations_nor_secrets():
    """It is handed around."""
    source = {"uri": "s3://private/lake.csv", "secretRef": {"name": "lake-keys"}}
    job = make_pod_job(dataset={"train": source}, output="s3://private/models")

    script = export_pipeline(job, Ranked(3, "LightGBM", 0.91), 11, 24)

    assert "private" not in script and "lake-keys" not in script


def importance_of(deadline=float("inf"), rows=None):
    facts = make_facts()
    weights = facts.holdout.frame["age"].to_numpy()
    y = (weights > 0.5).astype(int)

    def predict(frame):
        p = frame["age"].to_numpy(dtype=float)
        return np.stack([1 - p, p], axis=1)

    used = Rows(facts.holdout.frame, y).take(np.arange(120 if rows is None else rows))
    return permutation_importance(predict, facts.task, "RocAuc", used, seed=0, deadline=deadline)


def test_importance_is_the_loss_when_a_column_is_shuffled():
    """The only column the model looks at has all of it; the other none."""
    age, city = importance_of()

    assert (age.column, city.column) == ("age", "city")
    assert age.mean == pytest.approx(0.5, abs=0.1) and age.spread > 0
    assert (city.mean, city.spread) == (0, 0)


@pytest.mark.parametrize(("seconds", "is_known"), [(2.0, True), (0.2, True), (0.08, False)])
def test_importance_of_a_slow_model_looks_at_fewer_rows(seconds, is_known, monkeypatch):
    """A millisecond a row: it ends in time, with what half of the rows say or with nothing, and never with a few columns."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(importance, "time", SimpleNamespace(monotonic=lambda: clock.now))
    facts = make_facts()
    y = (facts.holdout.frame["age"].to_numpy() > 0.5).astype(int)

    def predict(frame):
        clock.now += 0.001 * len(frame)
        p = frame["age"].to_numpy(dtype=float)
        return np.stack([1 - p, p], axis=1)

    used = Rows(facts.holdout.frame, y).take(np.arange(60))
    found = permutation_importance(predict, facts.task, "RocAuc", used, seed=0, deadline=seconds)

    assert [i.column for i in found] == (["age", "city"] if is_known else [])
    assert clock.now <= seconds


def test_importance_stops_by_itself():
    """No time, no rows: no importance, and no error."""
    assert importance_of(deadline=0.0) == []
    assert importance_of(rows=0) == []
