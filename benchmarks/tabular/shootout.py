"""The shoot-out: every rival on the same splits with the same seconds and cores, results as JSON, a table with ranks.

    python benchmarks/tabular/environments.py flaml autogluon h2o mljar tpot     # once
    python benchmarks/tabular/shootout.py --rivals kubeautoml,histgb,autogluon --budget 60
    python benchmarks/tabular/standings.py

A run that already stands in the results is not made again; --again makes it. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import environments
import numpy as np
import pandas as pd
from processes import end_on_sigterm, run_bounded
from scores import difference, in_order, loss
from sets import FRESH, SETS, DataSet

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
BASELINE = "histgb"
PATIENCE, GRACE_SECONDS = 3.0, 180.0
"""A rival is killed after so many budgets and so many seconds."""


@dataclass(frozen=True)
class Run:
    """One rival, one split, one budget in seconds."""

    rival: str
    set: str
    budget: int
    seed: int

    def is_in(self, result: dict[str, Any]) -> bool:
        return all(result[k] == v for k, v in asdict(self).items())


@dataclass(frozen=True)
class Setting:
    """What is the same in all runs; predictions are kept, for comparisons row by row."""

    cores: int
    environments: Path
    predictions: Path
    scripts: Path = HERE / "rivals"


def one_run(run: Run, data: DataSet, setting: Setting) -> dict[str, Any]:
    """Fit, predict and score in a folder of its own; a failure is a result with `error`."""
    train, test = data.split(run.seed)
    y, rows = test[data.target].to_numpy(), test.drop(columns=data.target)
    with tempfile.TemporaryDirectory(prefix="shootout-") as name:
        folder = Path(name)
        train.to_csv(folder / "train.csv", index=False)
        rows.to_csv(folder / "rows.csv", index=False)
        words = [c for c in rows.columns if not pd.api.types.is_numeric_dtype(rows[c])]
        task = {"target": data.target, "kind": data.kind, "words": words, "budget": run.budget}
        (folder / "task.json").write_text(json.dumps({**task, "cores": setting.cores, "seed": run.seed}))
        script = setting.scripts / f"run_{run.rival}.py"
        python = environments.interpreter(run.rival, setting.environments)
        # the rivals find their own helper beside them, and nothing of this environment
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "OMP_NUM_THREADS")}
        if run.rival in environments.OWN:
            environment |= {k: os.environ[k] for k in ("PYTHONPATH",) if k in os.environ}
        seconds = PATIENCE * run.budget + GRACE_SECONDS
        ran = run_bounded([str(python), str(script), name], folder, seconds, environment)
        result: dict[str, Any] = {
            **asdict(run),
            "kind": data.kind,
            "rows": len(train),
            "columns": rows.shape[1],
            "cores": setting.cores,
            "machine": f"{platform.system()} {platform.machine()}",
            "date": time.strftime("%Y-%m-%d"),
            "wall_seconds": round(ran.wall_seconds, 2),
            "peak_bytes": ran.peak_bytes,
        }
        if (folder / "result.json").exists():
            result |= json.loads((folder / "result.json").read_text())
        elif ran.was_killed:
            result["error"] = f"killed after {seconds:.0f} s"
        else:
            last = (folder / "log.txt").read_text(errors="replace").strip().splitlines()[-1:]
            result["error"] = f"ended with {ran.status}: {''.join(last)[:300]}"
        if "error" not in result:
            predicted = np.load(folder / "predictions.npy")
            result |= scored(run, data.kind, y, predicted, result["classes"], setting)
        if "error" in result:
            (setting.predictions / "failed.log").write_bytes((folder / "log.txt").read_bytes())
        return result


def scored(
    run: Run, kind: str, y: np.ndarray, predicted: np.ndarray, given: list[str], setting: Setting
) -> dict[str, Any]:
    """The loss, and how it differs from the baseline's where that has run."""
    classes = [] if kind == "regression" else sorted(set(y))
    try:
        ordered = predicted if kind == "regression" else in_order(predicted, given, classes)
        found: dict[str, Any] = {"loss": loss(kind, y, ordered, classes)}
    except ValueError as error:
        return {"error": str(error)}
    kept = setting.predictions / f"{run.set}-{run.budget}-{run.seed}"
    kept.mkdir(parents=True, exist_ok=True)
    np.save(kept / f"{run.rival}.npy", ordered)
    if run.rival != BASELINE and (kept / f"{BASELINE}.npy").exists():
        found["versus_histgb"] = asdict(difference(kind, y, ordered, np.load(kept / f"{BASELINE}.npy"), classes))
    return found


def wanted_runs(args: argparse.Namespace) -> list[Run]:
    """Set by set, so that a shoot-out that is cut off has whole rows; the baseline first."""
    rivals = sorted(args.rivals, key=lambda r: r != BASELINE)
    return [
        Run(rival, name, budget, seed)
        for budget in args.budget
        for seed in args.seeds
        for name in args.sets
        for rival in rivals
    ]


def read_results(file: Path) -> list[dict[str, Any]]:
    return json.loads(file.read_text()) if file.exists() else []


def write_results(file: Path, results: list[dict[str, Any]]) -> None:
    """Whole or not at all: a shoot-out may be cut off at any time. One result a line, in a fixed order."""
    ordered = sorted(results, key=lambda r: (r["budget"], r["set"], r["seed"], r["rival"]))
    new = file.with_suffix(".new")
    new.write_text("[\n" + ",\n".join(json.dumps(r, sort_keys=True) for r in ordered) + "\n]\n")
    new.replace(file)


def line(result: dict[str, Any]) -> str:
    """For people, as the shoot-out goes."""
    head = f"{result['rival']:<12}{result['set']:<15}{result['budget']:>4} s  seed {result['seed']:<4}"
    if "error" in result:
        return f"{head} FAILED: {result['error']}"
    versus = result.get("versus_histgb")
    gain = f"  histgb {versus['value']:+.4g} ± {versus['standard_error']:.2g}" if versus else ""
    return (
        f"{head} loss {result['loss']:<10.5g} fit {result['fit_seconds']:>6.1f} s  one row {result['one_row_ms']:>7.2f} ms"
        f"  {result['peak_bytes'] / 2**30:.2f} GiB  {result['notes']}{gain}"
    )


def main() -> int:
    def names(text: str) -> list[str]:
        return text.split(",")

    def numbers(text: str) -> list[int]:
        return [int(n) for n in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rivals", type=names, default=list(environments.ALL), help="separated by commas")
    sets = "separated by commas, or `fresh` for those that nothing was tuned on"
    parser.add_argument("--sets", type=names, default=list(SETS), help=sets)
    parser.add_argument("--budget", type=numbers, default=[60], help="seconds; several are separated by commas")
    parser.add_argument("--seeds", type=numbers, default=[42], help="of the split and of the rival")
    parser.add_argument("--cores", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--environments", type=Path, default=environments.DEFAULT)
    parser.add_argument("--again", action="store_true", help="make runs again that stand in the results")
    args = parser.parse_args()
    if args.sets == ["fresh"]:
        args.sets = list(FRESH)
    for given, known, what in ((args.rivals, environments.ALL, "rivals"), (args.sets, SETS | FRESH, "sets")):
        if unknown := [n for n in given if n not in known]:
            parser.error(f"--{what} must be some of {', '.join(known)}, got {', '.join(unknown)}")
    end_on_sigterm()
    predictions = args.environments.parent / "shootout"
    predictions.mkdir(parents=True, exist_ok=True)
    setting = Setting(args.cores, args.environments, predictions)
    for rival in args.rivals:
        environments.interpreter(rival, args.environments)
    failed = 0
    for run in wanted_runs(args):
        results = read_results(args.results)
        same = [r for r in results if run.is_in(r)]
        if same and not args.again and "error" not in same[0]:
            continue
        result = one_run(run, (SETS | FRESH)[run.set], setting)
        failed += "error" in result
        write_results(args.results, [*(r for r in read_results(args.results) if not run.is_in(r)), result])
        print(line(result), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
