"""The figures of a benchmark: printed as a table, and handed to `run.py`, which holds each to its range in ranges.toml."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

FIGURES_ENV = "KUBEAUTOML_BENCH_FIGURES"
"""File that figures are appended to, a JSON object a line; set by run.py."""

RANGES = Path(__file__).with_name("ranges.toml")


@dataclass(frozen=True)
class Range:
    """What a figure may be, both ends included; None is no end. Without either the figure is only shown."""

    least: float | None = None
    most: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a figure is in the range; one that is no number never is."""
        above = self.least is None or value >= self.least
        below = self.most is None or value <= self.most
        return value == value and above and below

    def __str__(self) -> str:
        if self.least is None and self.most is None:
            return "any"
        return f"{'' if self.least is None else f'{self.least:g}'} .. {'' if self.most is None else f'{self.most:g}'}".strip()


@dataclass(frozen=True)
class Judged:
    """One line of the final table."""

    benchmark: str
    figure: str
    value: float | None
    range: Range | None
    """None: the range file does not know the figure."""

    @property
    def is_ok(self) -> bool:
        return self.value is not None and self.range is not None and self.range.holds(self.value)

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "MISSING: the benchmark did not measure it"
        if self.range is None:
            return "UNKNOWN: ranges.toml does not name it"
        return "ok" if self.is_ok else "OUT OF RANGE"


def record(figure: str, value: float, unit: str = "") -> None:
    """Print a figure, and hand it to run.py. Its range stands in ranges.toml, under this benchmark's name."""
    print(f"{figure:<44}{value:>12.4g} {unit}", flush=True)
    if file := os.environ.get(FIGURES_ENV):
        with Path(file).open("a") as out:
            out.write(json.dumps({"figure": figure, "value": float(value)}) + "\n")


def read_figures(file: Path) -> dict[str, float]:
    """What a benchmark recorded; of a figure recorded twice the last value."""
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {line["figure"]: line["value"] for line in lines}


def read_ranges(file: Path = RANGES) -> dict[str, dict[str, Range]]:
    """The ranges by benchmark and figure.

    Raises:
        ValueError: names the entry that is none.
    """
    ranges: dict[str, dict[str, Range]] = {}
    for benchmark, figures in tomllib.loads(file.read_text()).items():
        for figure, given in figures.items():
            if not isinstance(given, dict) or not given.keys() <= {"min", "max"}:
                raise ValueError(
                    f"{file.name}: {benchmark}.{figure} must be a table with min, max or both, got {given!r}"
                )
            ranges.setdefault(benchmark, {})[figure] = Range(given.get("min"), given.get("max"))
    return ranges


def judge(benchmark: str, figures: dict[str, float], ranges: dict[str, Range]) -> list[Judged]:
    """Every figure with its range; a range without a figure counts as missed, since something was not measured."""
    names = [*ranges, *(name for name in figures if name not in ranges)]
    return [Judged(benchmark, name, figures.get(name), ranges.get(name)) for name in names]


def table(judged: list[Judged]) -> str:
    """For people."""
    head = f"{'benchmark':<20}{'figure':<44}{'value':>12}  {'range':<16}ok"
    lines = [
        f"{j.benchmark:<20}{j.figure:<44}{'' if j.value is None else f'{j.value:.4g}':>12}  {j.range or '-'!s:<16}{j.verdict}"
        for j in judged
    ]
    return "\n".join([head, *lines])
