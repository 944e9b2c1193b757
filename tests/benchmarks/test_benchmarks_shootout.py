"""The shoot-out's parts: splits, scores, bounded runs, results that survive a cut, ranks and wins."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS / "tabular"))

import environments  # type: ignore[import-not-found]  # noqa: E402
import processes  # type: ignore[import-not-found]  # noqa: E402
import scores  # type: ignore[import-not-found]  # noqa: E402
import sets  # type: ignore[import-not-found]  # noqa: E402
import shootout  # type: ignore[import-not-found]  # noqa: E402
import standings  # type: ignore[import-not-found]  # noqa: E402

Y = np.array(["a", "b", "b", "a"], dtype=object)


def result(rival: str, loss: float | None, **more: Any) -> dict[str, Any]:
    """A result of one split, failed where there is no loss."""
    base = {
        "rival": rival,
        "set": "s",
        "seed": 1,
        "budget": 60,
        "kind": "regression",
        "rows": 10,
        "columns": 2,
        "version": "1",
        "fit_seconds": 50.0,
        "one_row_ms": 1.0,
        "rows_a_second": 1e5,
        "size_bytes": 10**6,
        "peak_bytes": 2**30,
    }
    return {**base, **({"error": "it broke"} if loss is None else {"loss": loss}), **more}


@pytest.fixture
def setting(tmp_path: Path) -> Any:
    """Scripts, environments and predictions below the test's own folder."""
    for name in ("scripts", "predictions"):
        (tmp_path / name).mkdir()
    return shootout.Setting(1, tmp_path / "environments", tmp_path / "predictions", tmp_path / "scripts")


def a_rival(setting: Any, body: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run of a rival `fake`, whose script is `body`; it runs in this environment."""
    (setting.scripts / "run_fake.py").write_text(
        f"import sys\nfrom pathlib import Path\nfolder = Path(sys.argv[1])\n{body}"
    )
    monkeypatch.setattr(environments, "OWN", (*environments.OWN, "fake"))
    return shootout.Run("fake", "boston", 1, 42)


@pytest.mark.parametrize("group", [sets.SETS, sets.FRESH], ids=["tuned on", "fresh"])
def test_every_data_set_loads_and_splits_the_same_way_twice(group: dict[str, Any]) -> None:
    """At least twelve sets of all three kinds; a quarter of the rows is the test."""
    kinds = [s.kind for s in group.values()]
    assert len(kinds) >= 12
    assert all(kinds.count(k) >= 2 for k in ("binary", "multiclass", "regression"))
    for data in group.values():
        train, test = data.split(0)
        again = data.split(0)[1]
        assert 200 <= len(train) + len(test) <= 50_000
        assert len(test) == pytest.approx((len(train) + len(test)) / 4, abs=1)
        assert test.equals(again)
        assert (data.frame()[data.target].nunique() == 2) == (data.kind == "binary")


def test_boston_is_split_as_tpots_example_splits_it() -> None:
    """`train_test_split(..., random_state=42)`: 379 and 127 rows."""
    from sklearn.model_selection import train_test_split

    data = sets.SETS["boston"]
    _, expected = train_test_split(data.frame(), random_state=42)

    assert data.split(42)[1]["MEDV"].tolist() == expected["MEDV"].tolist()
    assert len(expected) == 127


def test_losses_are_those_of_the_definitions() -> None:
    """By hand: one of four pairs is in the wrong order; log loss and RMSE of simple numbers."""
    predicted = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.5, 0.5]])

    assert scores.loss("binary", Y, predicted, ["a", "b"]) == pytest.approx(0.25)
    assert scores.loss("multiclass", Y, predicted, ["a", "b"]) == pytest.approx(-np.mean(np.log([0.9, 0.8, 0.4, 0.5])))
    assert scores.loss("regression", np.array([1.0, 3.0], dtype=object), np.array([2.0, 5.0]), []) == pytest.approx(
        np.sqrt(2.5)
    )


def test_columns_are_put_in_the_order_of_the_classes() -> None:
    """A class that the rival has not seen gets 0; a wrong shape is an error, not a score."""
    ordered = scores.in_order(np.array([[0.3, 0.7]]), ["b", "a"], ["a", "b", "c"])

    assert ordered.tolist() == [[0.7, 0.3, 0.0]]
    with pytest.raises(ValueError, match=r"shape \(2,\), expected \(rows, 2\)"):
        scores.in_order(np.array([0.3, 0.7]), ["b", "a"], ["a", "b"])
    with pytest.raises(ValueError, match="1 predictions are not finite"):
        scores.loss("regression", np.array([1.0, 3.0], dtype=object), np.array([2.0, np.nan]), [])


def test_a_difference_is_paired() -> None:
    """The same predictions differ by nothing, with no noise; worse ones differ by more than noise."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=400)
    near, far = y + rng.normal(size=400), y + 2 * rng.normal(size=400)

    same = scores.difference("regression", y.astype(object), near, near, [])
    worse = scores.difference("regression", y.astype(object), far, near, [])

    assert (same.value, same.standard_error) == (0, 0)
    assert worse.value == pytest.approx(1, abs=0.2)
    assert worse.value > 5 * worse.standard_error > 0


def test_the_baseline_runs_through_the_whole_shootout_and_is_not_run_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real script in a process of its own: files, fit, prediction, score, results; a second call makes nothing."""
    results = tmp_path / "results.json"
    command = ["shootout.py", "--rivals", "histgb", "--sets", "boston,breast_cancer", "--results", str(results)]
    monkeypatch.setattr(sys, "argv", [*command, "--environments", str(tmp_path / "rivals")])

    assert shootout.main() == 0
    written = json.loads(results.read_text())
    assert [r["set"] for r in written] == ["boston", "breast_cancer"]
    assert 2 < written[0]["loss"] < 6
    assert 0 < written[1]["loss"] < 0.05
    assert all(r["peak_bytes"] > 30e6 and r["one_row_ms"] > 0 and r["rows_a_second"] > 0 for r in written)
    assert capsys.readouterr().out.count("loss") == 2

    assert shootout.main() == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise SystemExit('out of memory')", "ended with 1: out of memory"),
        ("import time; time.sleep(60)", "killed after"),
        (
            "import json, numpy\nnumpy.save(folder / 'predictions.npy', numpy.full(127, numpy.nan))\n"
            "(folder / 'result.json').write_text(json.dumps({'classes': []}))",
            "127 predictions are not finite",
        ),
        (
            "import json\n(folder / 'result.json').write_text(json.dumps({'error': 'ValueError: no trees'}))\nsys.exit(1)",
            "ValueError: no trees",
        ),
    ],
)
def test_a_rival_that_fails_is_a_result(setting: Any, body: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dead, deaf, not a number, or its own error: the shoot-out goes on, and the report says so."""
    monkeypatch.setattr(shootout, "GRACE_SECONDS", 1.0)
    run = a_rival(setting, body, monkeypatch)

    found = shootout.one_run(run, sets.SETS["boston"], setting)

    assert message in found["error"]
    assert "loss" not in found
    assert (setting.predictions / "failed.log").exists()


def test_a_rival_never_sees_the_targets_of_the_test(setting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script gets the features alone; what it lists is checked here."""
    run = a_rival(
        setting,
        "import json, pandas\nrows = pandas.read_csv(folder / 'rows.csv')\n"
        "given = sorted(f.name for f in folder.iterdir() if f.name != 'log.txt')\n"
        "(folder / 'result.json').write_text(json.dumps({'error': json.dumps([given, list(rows.columns)])}))",
        monkeypatch,
    )

    given, columns = json.loads(shootout.one_run(run, sets.SETS["boston"], setting)["error"])

    assert given == ["rows.csv", "task.json", "train.csv"]
    assert len(columns) == 13
    assert "MEDV" not in columns


def test_children_count_as_memory_and_end_with_their_parent(tmp_path: Path) -> None:
    """A rival's own workers hold memory too, and none of them outlives its run."""
    child = "import time; a = bytearray(200_000_000); time.sleep(60)"
    parent = f"import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', {child!r}]); print(p.pid, flush=True); time.sleep(60)"

    ran = processes.run_bounded([sys.executable, "-c", parent], tmp_path, 3, {})

    assert ran.was_killed
    assert ran.peak_bytes > 200_000_000
    pid = int((tmp_path / "log.txt").read_text())
    deadline = time.monotonic() + 20
    while is_running(pid):
        assert time.monotonic() < deadline, "the rival's child outlived it"
        time.sleep(0.05)


def test_a_shoot_out_that_is_ended_ends_what_it_runs(tmp_path: Path) -> None:
    """By SIGTERM, as by Ctrl-C."""
    rival = "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(60)"
    body = (
        f"import sys; sys.path.append({str(BENCHMARKS / 'tabular')!r}); from pathlib import Path; import processes as p; "
        f"p.end_on_sigterm(); p.run_bounded([sys.executable, '-c', {rival!r}], Path({str(tmp_path)!r}), 60, None)"
    )
    shoot_out = subprocess.Popen([sys.executable, "-c", body])
    said = tmp_path / "pid"
    end = time.monotonic() + 30
    while not (said.exists() and said.read_text()) and time.monotonic() < end:
        time.sleep(0.05)

    shoot_out.terminate()

    assert shoot_out.wait(timeout=30) == 128 + signal.SIGTERM
    assert not is_running(int(said.read_text()))


def is_running(pid: int) -> bool:
    """Whether the process lives; a zombie, which nobody has waited for yet, does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_missing_environment_says_how_to_make_it(tmp_path: Path) -> None:
    """Before anything runs."""
    with pytest.raises(
        SystemExit, match=r"no environment for tpot at .*: run python benchmarks/tabular/environments.py tpot"
    ):
        environments.interpreter("tpot", tmp_path)


def test_ranks_share_ties_and_put_failures_last() -> None:
    """The baseline has no rank."""
    split = {
        r: result(r, loss) for r, loss in (("kubeautoml", 2.0), ("b", 1.0), ("c", 2.0), ("d", None), ("histgb", 0.5))
    }

    assert standings.ranks(split) == {"b": 1.0, "kubeautoml": 2.5, "c": 2.5, "d": 4.0}


def test_a_mean_rank_counts_only_splits_that_all_have_run() -> None:
    """Or a rival would be ranked on easier company."""
    splits = {
        ("s", 1): {"kubeautoml": result("kubeautoml", 1.0), "b": result("b", 2.0)},
        ("s", 2): {"kubeautoml": result("kubeautoml", 1.0)},
        ("t", 1): {"kubeautoml": result("kubeautoml", None), "b": result("b", 2.0)},
    }

    assert standings.mean_ranks(splits, ["kubeautoml", "b"]) == {"kubeautoml": 1.5, "b": 1.5}
    assert standings.wins(splits, "b") == standings.Wins(won=1, tied=0, lost=1)
    assert standings.wins(splits, "b").percent == 50


def test_worse_than_the_baseline_means_beyond_noise() -> None:
    """Two standard errors of the paired difference; a failure is always worse."""
    versus = [{"value": 0.03, "standard_error": 0.02}, {"value": 0.05, "standard_error": 0.02}]
    splits = {
        ("near", 1): {"kubeautoml": result("kubeautoml", 1.0, versus_histgb=versus[0])},
        ("far", 1): {"kubeautoml": result("kubeautoml", 1.0, versus_histgb=versus[1])},
        ("failed", 1): {"kubeautoml": result("kubeautoml", None)},
    }

    assert standings.below_baseline(splits, "kubeautoml") == ["far (1)", "failed (1)"]


def test_the_report_shows_losses_and_failures() -> None:
    """The lowest loss is in bold, a failure is said, every rival has its costs."""
    text = standings.markdown([result("kubeautoml", 1.0), result("b", 1.5), result("c", None), result("histgb", 2.0)])

    assert "| s (1) | 10 x 2 | RMSE | **1** | 1.5 | failed | 2 |" in text
    assert "| **mean rank** over 1 | | | 1.00 | 2.00 | 3.00 | |" in text
    assert "- against b: 1 won, 0 tied, 0 lost (100 %)" in text
    assert "| b | 1 | 1, 0 | 50 / 50 | 0.83 | 1 / 1 | 1e+05 | 1 | 1.00 | none |" in text


def test_sets_that_nothing_was_tuned_on_have_a_table_of_their_own() -> None:
    """So that nobody mistakes what was tuned for what carries over."""
    results = [result(rival, 1.0, set=name) for name in ("boston", "housing") for rival in ("kubeautoml", "b")]

    tuned, fresh = standings.markdown(results).split("### 60 seconds, sets that nothing was tuned on")

    assert "| boston (1) |" in tuned and "housing" not in tuned
    assert "| housing (1) |" in fresh and "boston" not in fresh
    assert set(sets.SETS).isdisjoint(sets.FRESH)


def test_the_readme_shows_the_results_as_they_are() -> None:
    """All of them, losses too: the text between the marks is what the report makes of the committed results."""
    readme = (BENCHMARKS.parent / "README.md").read_text()
    results = json.loads(standings.RESULTS.read_text())

    assert len({r["set"] for r in results}) >= 5
    assert standings.placed(standings.markdown(results), readme) == readme


def test_a_file_without_the_marks_is_said() -> None:
    with pytest.raises(ValueError, match="must hold the lines <!-- shoot-out -->"):
        standings.placed("table", "# A file")
