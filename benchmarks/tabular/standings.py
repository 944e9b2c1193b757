"""The table of a shoot-out: losses, ranks, wins, and what each rival costs, as Markdown.

    python benchmarks/tabular/standings.py [--results FILE] [--into README.md]

With --into the report takes the place of what stands between the two marks in that file.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sets import FRESH

OURS, BASELINE = "kubeautoml", "histgb"
RESULTS = Path(__file__).resolve().with_name("results.json")
NOISE = 2.0
"""Standard errors of a paired difference that count as noise."""
BEGIN, END = "<!-- shoot-out -->", "<!-- end of the shoot-out -->"
Result = dict[str, Any]
Split = tuple[str, int]


@dataclass(frozen=True)
class Wins:
    """Ours against one rival, over the splits that both were given; a failure loses."""

    won: int
    tied: int
    lost: int

    @property
    def percent(self) -> float:
        """A tie counts half."""
        return 100 * (self.won + self.tied / 2) / max(self.won + self.tied + self.lost, 1)


def by_split(results: Iterable[Result], budget: int) -> dict[Split, dict[str, Result]]:
    """Results of one budget by data set and seed, then by rival."""
    splits: dict[Split, dict[str, Result]] = {}
    for r in results:
        if r["budget"] == budget:
            splits.setdefault((r["set"], r["seed"]), {})[r["rival"]] = r
    return dict(sorted(splits.items()))


def loss_of(result: Result) -> float:
    """Infinite for a failure."""
    return float(result["loss"]) if "error" not in result else float("inf")


def ranks(split: dict[str, Result]) -> dict[str, float]:
    """1 for the lowest loss; equals share the mean of their places, failures share the last ones. Without the baseline."""
    losses = {rival: loss_of(r) for rival, r in split.items() if rival != BASELINE}
    return {
        rival: sum(other < own for other in losses.values()) + (1 + sum(other == own for other in losses.values())) / 2
        for rival, own in losses.items()
    }


def mean_ranks(splits: dict[Split, dict[str, Result]], rivals: list[str]) -> dict[str, float]:
    """Over the splits that all of these rivals have run, so that no one is ranked on easier company."""
    whole = [ranks(s) for s in splits.values() if all(r in s for r in rivals)]
    return {rival: statistics.fmean(w[rival] for w in whole) for rival in rivals} if whole else {}


def wins(splits: dict[Split, dict[str, Result]], rival: str) -> Wins:
    pairs = [(loss_of(s[OURS]), loss_of(s[rival])) for s in splits.values() if OURS in s and rival in s]
    return Wins(sum(a < b for a, b in pairs), sum(a == b for a, b in pairs), sum(a > b for a, b in pairs))


def below_baseline(splits: dict[Split, dict[str, Result]], rival: str) -> list[str]:
    """The data sets on which a rival fails, or loses to HistGradientBoosting's defaults by more than noise."""
    found = []
    for (name, seed), split in splits.items():
        result = split.get(rival)
        if result is None:
            continue
        versus = result.get("versus_histgb")
        if "error" in result or (versus and versus["value"] > NOISE * versus["standard_error"]):
            found.append(f"{name} ({seed})")
    return found


def losses_table(splits: dict[Split, dict[str, Result]], rivals: list[str]) -> list[str]:
    """A row for each split; the lowest loss is in bold."""
    shown = [*rivals, BASELINE]
    lines = [f"| data set (seed) | rows x columns | loss | {' | '.join(shown)} |", "|---" * (3 + len(shown)) + "|"]
    names = {"binary": "1 - AUC", "multiclass": "log loss", "regression": "RMSE"}
    for (name, seed), split in splits.items():
        some = next(iter(split.values()))
        best = min((loss_of(r) for r in split.values()), default=float("inf"))
        cells = [cell(split.get(rival), best) for rival in shown]
        size = f"{some['rows']} x {some['columns']}"
        lines.append(f"| {name} ({seed}) | {size} | {names[some['kind']]} | {' | '.join(cells)} |")
    mean = mean_ranks(splits, rivals)
    if mean:
        count = sum(all(r in s for r in rivals) for s in splits.values())
        cells = [f"{mean[r]:.2f}" for r in rivals]
        lines.append(f"| **mean rank** over {count} | | | {' | '.join(cells)} | |")
    return lines


def cell(result: Result | None, best: float) -> str:
    if result is None:
        return ""
    if "error" in result:
        return "failed"
    text = f"{result['loss']:.5g}"
    return f"**{text}**" if result["loss"] == best else text


def costs_table(splits: dict[Split, dict[str, Result]], rivals: list[str], budget: int) -> list[str]:
    """What a rival takes: median and worst over its runs."""
    lines = [
        "| rival | version | runs, failed | fit s, median / worst | worst fit / budget | one row ms, median / worst "
        "| rows a second, worst | model MB, worst | peak memory GiB, worst | worse than HistGB beyond noise |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for rival in [*rivals, BASELINE]:
        runs = [s[rival] for s in splits.values() if rival in s]
        good = [r for r in runs if "error" not in r]
        if not good:
            continue

        def pair(key: str, good: list[Result] = good) -> str:
            values = [r[key] for r in good]
            return f"{statistics.median(values):.3g} / {max(values):.3g}"

        sizes = [r["size_bytes"] for r in good if r["size_bytes"]]
        size = f"{max(sizes) / 1e6:.3g}" if sizes else ""
        memory = max(r["peak_bytes"] for r in good) / 2**30
        worse = "" if rival == BASELINE else ", ".join(below_baseline(splits, rival)) or "none"
        lines.append(
            f"| {rival} | {good[-1]['version']} | {len(runs)}, {len(runs) - len(good)} | {pair('fit_seconds')} "
            f"| {max(r['fit_seconds'] for r in good) / budget:.2f} | {pair('one_row_ms')} "
            f"| {min(r['rows_a_second'] for r in good):.3g} | {size} | {memory:.2f} | {worse} |"
        )
    return lines


def markdown(results: list[Result]) -> str:
    """The whole report: for each budget the losses, our wins and losses, and the costs; fresh sets by themselves."""
    parts = []
    for budget in sorted({r["budget"] for r in results}):
        for is_fresh, title in (
            (False, f"{budget} seconds"),
            (True, f"{budget} seconds, sets that nothing was tuned on"),
        ):
            splits = by_split([r for r in results if (r["set"] in FRESH) == is_fresh], budget)
            if splits:
                parts += section(title, splits, budget)
    return "\n".join(parts)


def section(title: str, splits: dict[Split, dict[str, Result]], budget: int) -> list[str]:
    others = sorted({r for s in splits.values() for r in s} - {OURS, BASELINE})
    rivals = [OURS, *others]
    parts = [f"### {title}", "", *losses_table(splits, rivals), ""]
    for rival in others:
        w = wins(splits, rival)
        parts.append(f"- against {rival}: {w.won} won, {w.tied} tied, {w.lost} lost ({w.percent:.0f} %)")
    return [*parts, "", *costs_table(splits, rivals, budget), ""]


def placed(report: str, text: str) -> str:
    """A file's text with the report between its marks.

    Raises:
        ValueError: the marks are not there.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"the file must hold the lines {BEGIN} and {END}")
    head, rest = text.split(BEGIN, 1)
    return f"{head}{BEGIN}\n\n{report.strip()}\n\n{END}{rest.split(END, 1)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--into", type=Path, help="file to write the report into; without it, it is printed")
    args = parser.parse_args()
    report = markdown(json.loads(args.results.read_text()))
    if args.into is None:
        print(report)
    else:
        args.into.write_text(placed(report, args.into.read_text()))


if __name__ == "__main__":
    main()
