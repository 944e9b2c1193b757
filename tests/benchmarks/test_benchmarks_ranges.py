"""The range file of `make bench`, and how figures are judged by it."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def load(name: str) -> ModuleType:
    """A module of the benchmarks' folder, which is no package."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


figures = load("figures")


@pytest.mark.parametrize(
    ("least", "most", "value", "holds"),
    [
        (None, 3, 3, True),
        (None, 3, 3.01, False),
        (2, None, 2, True),
        (2, None, 1.99, False),
        (1, 2, 1.5, True),
        (None, None, 1e9, True),
        (None, 3, float("nan"), False),
        (None, None, float("nan"), False),
    ],
)
def test_a_figure_is_in_its_range_or_not(least: float | None, most: float | None, value: float, holds: bool) -> None:
    """Both ends are included; what is no number never holds."""
    assert figures.Range(least, most).holds(value) is holds


def test_every_figure_is_judged_and_every_range_needs_its_figure() -> None:
    """A figure without a range, and a range without a figure, are mistakes of the benchmark and count as missed."""
    ranges = {"lag": figures.Range(most=10), "memory": figures.Range(most=400), "size": figures.Range(most=32)}

    judged = figures.judge("operator", {"lag": 4.0, "memory": 500.0, "new": 1.0}, ranges)

    assert [(j.figure, j.verdict) for j in judged] == [
        ("lag", "ok"),
        ("memory", "OUT OF RANGE"),
        ("size", "MISSING: the benchmark did not measure it"),
        ("new", "UNKNOWN: ranges.toml does not name it"),
    ]
    assert [j.is_ok for j in judged] == [True, False, False, False]
    assert "OUT OF RANGE" in figures.table(judged)


def test_figures_go_to_the_file_that_the_runner_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And are printed, with or without one."""
    file = tmp_path / "figures"
    figures.record("lag", 4, "s")
    monkeypatch.setenv(figures.FIGURES_ENV, str(file))

    figures.record("lag", 5, "s")
    figures.record("size", 6.5, "KiB")

    assert figures.read_figures(file) == {"lag": 5.0, "size": 6.5}
    assert [json.loads(line)["figure"] for line in file.read_text().splitlines()] == ["lag", "size"]
    assert capsys.readouterr().out.count("lag") == 2
    assert figures.read_figures(tmp_path / "none") == {}


def test_the_range_file_names_benchmarks_that_exist_and_figures_that_they_record() -> None:
    """A renamed figure would else be noticed only after an hour of benchmarks."""
    ranges = figures.read_ranges()
    names = re.search(r"ALL = \((.*?)\)", (BENCHMARKS / "run.py").read_text(), re.DOTALL)
    assert names is not None

    assert set(ranges) == set(re.findall(r'"(\w+)"', names[1]))
    for benchmark, given in ranges.items():
        source = (BENCHMARKS / f"{benchmark}.py").read_text()
        for literal in re.findall(r'record\(\s*"([^"]+)"', source):
            assert literal in given, f"{benchmark}.py records {literal!r}, which ranges.toml does not name"


def test_a_range_that_is_none_is_said(tmp_path: Path) -> None:
    """With the entry."""
    file = tmp_path / "ranges.toml"
    file.write_text('[study]\n"p95" = { maximum = 3 }\n')

    with pytest.raises(ValueError, match=r"study.p95 must be a table with min, max or both, got \{'maximum': 3\}"):
        figures.read_ranges(file)
