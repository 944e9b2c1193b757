"""A small shoot-out: five data sets, 60 seconds each, against FLAML and HistGradientBoosting's defaults.

The large one, against all rivals, is `python benchmarks/tabular/shootout.py`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "tabular"))

import environments
import standings
from figures import record

FOLDER = Path(__file__).resolve().parent / "tabular"
SETS = ("boston", "titanic", "german", "hr", "computers")
RIVAL = "flaml"
ALLOWED_FACTOR, ALLOWED_SECONDS = 1.02, 30.0
"""A whole job may take so many budgets and so many seconds more."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=int, default=60, help="seconds for each rival on each data set")
    budget = parser.parse_args().budget
    environments.make(RIVAL, environments.DEFAULT)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.json"
        rivals = f"{standings.BASELINE},{standings.OURS},{RIVAL}"
        command = [sys.executable, str(FOLDER / "shootout.py"), "--rivals", rivals, "--sets", ",".join(SETS)]
        status = subprocess.run([*command, "--budget", str(budget), "--results", str(file)], check=False).returncode
        results = json.loads(file.read_text())
    print(f"\n{standings.markdown(results)}")
    splits = standings.by_split(results, budget)
    won = standings.wins(splits, RIVAL)
    record(f"wins against {RIVAL}", won.percent, "%")
    record("mean rank of two", standings.mean_ranks(splits, [standings.OURS, RIVAL])[standings.OURS])
    record("worse than HistGB beyond noise", len(standings.below_baseline(splits, standings.OURS)), "sets")
    ours = [s[standings.OURS] for s in splits.values()]
    allowed = ALLOWED_FACTOR * budget + ALLOWED_SECONDS
    record("longest job of what it may take", max(r["fit_seconds"] for r in ours if "error" not in r) / allowed)
    return status


if __name__ == "__main__":
    sys.exit(main())
