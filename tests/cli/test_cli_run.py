"""`kubeautoml run` as a person uses it: whole runs, Ctrl-C, kills, and the same command again."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cli.runs import Ended, Place, children_of, end_of, is_alive, make_rows, wait_until
from kubeautoml.cli.main import main

pytestmark = pytest.mark.slow

MANY = {"budget": {"maxTrials": 6, "maxDurationSeconds": 90}, "search": {"families": {"include": ["LightGBM"]}}}
"""Trials that take about half a second each, so that there is a middle."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Ended]:
    """A small job that has been run to its end."""
    place = Place(tmp_path_factory.mktemp("finished"))
    place.write()
    return place, place.run("-o", "json")


def searching(folder: Path) -> Place:
    """A job of several trials on enough rows for them to take a moment."""
    place = Place(folder)
    place.write(make_rows(2000), **MANY)
    return place


def has_completed(place: Place, number: int) -> bool:
    return place.status().get("trials", {}).get("completed", 0) >= number


def test_a_run_ends_with_a_model_and_prints_the_finished_object_alone(finished: tuple[Place, Ended]):
    """Exit 0; stdout is one JSON object; its model loads and predicts; stderr says what to do next."""
    from kubeautoml_trainer import load_model

    _, ended = finished
    rows = make_rows(20, seed=1)

    assert ended.code == 0, ended.err
    status = ended.job["status"]
    model = load_model(status["model"]["uri"], sha256=status["model"]["sha256"])
    assert status["trials"] == {"total": 3, "running": 0, "completed": 3, "pruned": 0, "failed": 0, "preempted": 0}
    assert set(model.predict(rows)) == {"no", "yes"}
    assert float(status["model"]["metrics"]["RocAuc"]) > 0.7
    assert ended.last_line == f"next:     kubeautoml serve --model {status['model']['uri']}"


def test_a_finished_job_is_not_run_again(finished: tuple[Place, Ended]):
    """The same command says so, prints the same object, and returns at once."""
    place, first = finished

    again = place.run("-o", "json")

    assert again.code == 0
    assert again.job == first.job
    assert again.err.startswith("this job is finished already; raise its budget or change the manifest to search on\n")
    assert again.seconds < 10


def test_serve_answers_until_ctrl_c(finished: tuple[Place, Ended], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """`--serve` on a finished job serves its model without a search; Ctrl-C ends it with exit code 0."""
    place, first = finished
    rows = tmp_path / "rows.json"
    make_rows(2).drop(columns="bought").to_json(rows, orient="records")
    process = place.start("--serve", "--port", "0")
    lines = [""]
    assert process.stderr is not None
    while "serving at" not in lines[-1]:
        lines.append(process.stderr.readline())
        assert lines[-1], f"it ended without serving: {lines}"
    (url,) = re.findall(r"http://[0-9.:]+", lines[-1])

    assert main(["predict", "shop", "-i", str(rows), "--url", url]) == 0
    started = children_of(process.pid)
    process.send_signal(signal.SIGINT)
    ended = end_of(process, 20)

    assert [p["bought"] in ("no", "yes") for p in json.loads(capsys.readouterr().out)["predictions"]] == [True, True]
    assert ended.code == 0, ended.err
    assert started
    assert [p for p in started if is_alive(p)] == []
    assert place.completed().keys() == {0, 1, 2}
    assert first.job["status"]["model"]["sha256"] == place.status()["model"]["sha256"]


def test_serve_says_when_the_gate_refuses_the_model(finished: tuple[Place, Ended]):
    """The model stays, nothing is served, and the last line is the reason; exit 1."""
    place, first = finished
    place.write_manifest(serving={"gate": {"metric": "Accuracy", "min": "0.9999"}})

    ended = place.run("--serve", "--port", "0")
    place.write_manifest()

    assert ended.code == 1
    assert ended.last_line.startswith("error: GateNotPassed: ")
    assert "0.9999" in ended.last_line
    assert place.status()["model"] == first.job["status"]["model"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[rows.columns[::-1]].assign(extra=1), None),
        (lambda rows: rows.assign(city="Paris"), None),
        (lambda rows: rows.drop(columns="age"), "column 'age' must be given"),
        (lambda rows: rows.assign(age="old"), "column 'age' must be a number, got 'old' in row 0"),
        (lambda rows: rows.head(0), "has a header and no rows"),
    ],
    ids=["other order and more", "unseen category", "missing column", "wrong value", "no row"],
)
def test_predict_takes_or_refuses_rows(
    change: Any, said: str | None, finished: tuple[Place, Ended], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Other columns than at training: what can be used is used; what cannot is one line that names file and column."""
    rows, output = tmp_path / "rows.csv", tmp_path / "out.csv"
    change(make_rows(10).drop(columns="bought")).to_csv(rows, index=False)
    model = finished[1].job["status"]["model"]["uri"]

    code = main(["predict", "--model", model, "-i", str(rows), "-o", str(output)])

    error = capsys.readouterr().err
    if said is None:
        assert code == 0, error
        predicted = pd.read_csv(output)
        assert list(predicted.columns) == ["bought", "bought_no", "bought_yes"]
        assert np.allclose(predicted["bought_no"] + predicted["bought_yes"], 1)
        assert error == f"10 predictions of 'bought' written to {output}\n"
    else:
        assert code == 1
        assert error.startswith(f"error: file://{rows}")
        assert said in error
        assert error.count("\n") == 1
        assert not output.exists()


def test_a_larger_budget_goes_on_with_the_study(finished: tuple[Place, Ended]):
    """Trials of the finished run stay as they are, and only the difference is run."""
    place, _ = finished
    before = place.completed()
    place.write_manifest(budget={"maxTrials": 5, "maxDurationSeconds": 90})

    ended = place.run("-o", "json")

    assert ended.code == 0, ended.err
    assert "going on with the study of an earlier run (3 completed trials)" in ended.err
    assert ended.job["status"]["trials"]["total"] == 5
    assert {n: place.completed()[n] for n in before} == before


def test_ctrl_c_leaves_the_best_model_so_far_and_the_same_command_goes_on(tmp_path: Path):
    """The first SIGINT ends the search with exit 0 and a model; running it again completes the study."""
    place = searching(tmp_path)
    process = place.start("-o", "json")
    wait_until(lambda: has_completed(place, 2), "two completed trials", process)
    process.send_signal(signal.SIGINT)
    stopped = end_of(process)
    before = place.completed()

    assert stopped.code == 0, stopped.err
    assert "stopping: the best model so far is being made; Ctrl-C again leaves at once" in stopped.err
    assert stopped.job["status"]["budgetUsed"]["endedBy"] == "Interrupted"
    assert (Path(stopped.job["status"]["model"]["uri"].removeprefix("file://")) / "bundle.json").exists()
    assert 2 <= len(before) < 6

    ended = place.run("-o", "json")

    assert ended.code == 0, ended.err
    assert ended.job["status"]["budgetUsed"]["endedBy"] == "MaxTrials"
    assert {n: place.completed()[n] for n in before} == before
    check_every_entry_ran_once(place)


def test_a_killed_run_leaves_no_process_and_the_same_command_goes_on(tmp_path: Path):
    """After SIGKILL no worker is left; no finished trial is lost, the running one is run again."""
    place = searching(tmp_path)
    process = place.start()
    wait_until(lambda: has_completed(place, 2), "two completed trials", process)
    workers = children_of(process.pid)
    process.kill()
    process.wait(10)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(is_alive(w) for w in workers):
        time.sleep(0.05)
    before = place.completed()

    assert workers
    assert [w for w in workers if is_alive(w)] == []

    ended = place.run("-o", "json")

    assert ended.code == 0, ended.err
    assert {n: place.completed()[n] for n in before} == before
    assert ended.job["status"]["trials"]["completed"] == 6
    check_every_entry_ran_once(place)


def test_a_trial_that_nobody_claimed_is_run_when_the_command_goes_on(tmp_path: Path):
    """A worker that is killed between taking a trial and writing its name on it leaves one that says of nobody that it runs."""
    place = searching(tmp_path)
    process = place.start()
    wait_until(lambda: has_completed(place, 2), "two completed trials", process)
    process.kill()
    process.wait(10)
    place.take_a_trial()

    ended = place.run("-o", "json")

    assert ended.code == 0, ended.err
    trials = ended.job["status"]["trials"]
    assert (trials["completed"], trials["running"]) == (6, 0)
    check_every_entry_ran_once(place)


def check_every_entry_ran_once(place: Place) -> None:
    """Six trials count; each entry of the portfolio was begun once, and once more for a preempted trial."""
    trials = place.trials()
    counted = [t for t in trials if t.state.name == "COMPLETE"]
    entries = [t.user_attrs["portfolio"] for t in counted if "portfolio" in t.user_attrs]
    assert len(counted) == 6
    assert len(entries) == len(set(entries))
    assert [t.number for t in trials if t.state.name in ("RUNNING", "WAITING")] == []


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path):
    """Exit 130 within seconds, no process left, and no object on stdout."""
    place = searching(tmp_path)
    process = place.start("-o", "json")
    wait_until(lambda: has_completed(place, 1), "a completed trial", process)
    workers = children_of(process.pid)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    ended = end_of(process, 20)

    assert ended.code == 130
    assert ended.out == ""
    assert ended.seconds < 15
    assert [w for w in workers if is_alive(w)] == []


def test_two_commands_do_not_work_on_one_job(tmp_path: Path):
    """The second one says that the first is at work, and leaves it alone."""
    place = searching(tmp_path)
    process = place.start()
    wait_until(place.status, "the first status", process)
    second = place.run()
    process.kill()
    process.communicate()

    assert second.code == 2
    assert second.err == (
        f"error: another kubeautoml run works on this job in {place.workdir}; wait for it, or use another --workdir\n"
    )


def test_ctrl_c_before_any_trial_says_that_there_is_no_model(tmp_path: Path):
    """Exit 1 with what to do, instead of advice about budgets."""
    place = searching(tmp_path)
    process = place.start()
    wait_until(place.status, "the first status", process)
    process.send_signal(signal.SIGINT)
    ended = end_of(process, 30)

    assert ended.code == 1
    assert ended.last_line == (
        "error: NoTrialCompleted: the search was interrupted before any trial completed; start it again to go on"
    )
