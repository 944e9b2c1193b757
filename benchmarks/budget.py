"""Whether whole jobs keep their budget and their memory, on long, wide and hostile data among others.

    python benchmarks/budget.py [--case long] [--all]     # a run of each case, or all 30

A job may take 1.02 x budget + 30 s from the command to its end, reading the data and making the model included; none of its
processes may hold more than 4 x the data (rows x columns x 8 bytes) + 1 GiB.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent / "tabular"))

from figures import record
from memory import CASES as SHAPES
from memory import write_csv
from processes import run_bounded
from sets import SETS
from whole_job import run_job

ALLOWED_FACTOR, ALLOWED_SECONDS = 1.02, 30.0
ALLOWED_TIMES, ALLOWED_BYTES = 4, 1 << 30


@dataclass(frozen=True)
class Case:
    """One kind of data, how long its jobs may search, and how many jobs of it are run, with other seeds."""

    make: Callable[[], pd.DataFrame]
    metric: str
    budget: int
    runs: int

    @property
    def task(self) -> str:
        return "TabularRegression" if self.metric == "Rmse" else "TabularClassification"


def real(name: str) -> pd.DataFrame:
    """A set of the shoot-out; its target is called target."""
    data = SETS[name]
    return data.frame().rename(columns={data.target: "target"})


def written(shape: str) -> pd.DataFrame:
    """A shape of the memory benchmark."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.csv"
        write_csv(SHAPES[shape], SHAPES[shape].rows, file)
        return pd.read_csv(file)


def many_classes() -> pd.DataFrame:
    """20,000 rows of 200 classes: boosting fits 200 trees a round."""
    random = np.random.default_rng(0)
    numbers = random.normal(size=(20_000, 30))
    target = (numbers[:, 0] * 3 + random.normal(size=len(numbers))).round(2).argsort().argsort() * 200 // len(numbers)
    return frame_of(numbers).assign(target=[f"class {k}" for k in target])


def many_levels() -> pd.DataFrame:
    """50,000 rows with five columns of up to 20,000 levels each: slow for encoders and for CatBoost."""
    random = np.random.default_rng(1)
    levels = {f"level_{k}": random.zipf(1.2, 50_000) % 20_000 for k in range(5)}
    target = sum(np.sin(v) for v in levels.values()) + random.normal(size=50_000)
    words = {name: [f"{name}-{v}" for v in values] for name, values in levels.items()}
    return pd.DataFrame(words).assign(number=random.normal(size=50_000), target=np.where(target > 0, "yes", "no"))


def long_texts() -> pd.DataFrame:
    """6,000 rows with two columns of up to 400 words out of 30,000: a wide vocabulary."""
    random = np.random.default_rng(2)

    def text() -> list[str]:
        return [" ".join(f"word{k}" for k in random.zipf(1.3, random.integers(20, 400)) % 30_000) for _ in range(6_000)]

    frame = pd.DataFrame({"title": text(), "body": text(), "number": random.normal(size=6_000)})
    return frame.assign(target=frame["number"] + frame["body"].str.count("word7 ") + random.normal(size=6_000))


def many_rows() -> pd.DataFrame:
    """200,000 rows of 20 columns: slow for what compares rows with rows, and for whatever does not sample."""
    random = np.random.default_rng(3)
    numbers = random.normal(size=(200_000, 20))
    return frame_of(numbers).assign(target=numbers[:, 0] * numbers[:, 1] + random.normal(size=len(numbers)))


def frame_of(numbers: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(numbers.round(5), columns=[f"number_{k}" for k in range(numbers.shape[1])])


CASES = {
    "long": Case(lambda: written("long"), "RocAuc", 120, 3),
    "wide": Case(lambda: written("wide"), "RocAuc", 60, 3),
    "many_classes": Case(many_classes, "LogLoss", 60, 3),
    "many_levels": Case(many_levels, "RocAuc", 60, 3),
    "long_texts": Case(long_texts, "Rmse", 60, 3),
    "many_rows": Case(many_rows, "Rmse", 60, 3),
    "boston": Case(lambda: real("boston"), "Rmse", 30, 4),
    "titanic": Case(lambda: real("titanic"), "RocAuc", 30, 4),
    "digits": Case(lambda: real("digits"), "LogLoss", 30, 4),
}
"""30 runs in all."""


@dataclass(frozen=True)
class Outcome:
    """One job, against what it may take: 1 is all of it."""

    time_share: float
    memory_share: float


def one_job(name: str, seed: int, folder: Path) -> None:
    """The child: runs the job on the data in `folder`, and leaves there what it took. It never holds the data itself."""
    case = CASES[name]
    task = {"type": case.task, "target": "target"}
    job = run_job(folder, folder / "data.csv", task, case.metric, case.budget, seed)
    status = job["status"]
    facts = {
        "wall_seconds": job["wall_seconds"],
        "trials": status["trials"]["total"],
        "model": float(status["model"]["metrics"][case.metric]),
    }
    (folder / "facts.json").write_text(json.dumps(facts))


def measure(name: str, seed: int) -> Outcome | None:
    """None for a job that failed; its last words are printed."""
    case = CASES[name]
    with tempfile.TemporaryDirectory(prefix="budget-") as text:
        folder = Path(text)
        frame = case.make()
        data_bytes = frame.size * 8
        frame.to_csv(folder / "data.csv", index=False)
        del frame
        command = [sys.executable, __file__, "--one", name, "--seed", str(seed), "--folder", text]
        ran = run_bounded(command, folder, 3 * case.budget + 300, None)
        if not (folder / "facts.json").exists():
            print(f"{name:<14} seed {seed}  FAILED\n{(folder / 'log.txt').read_text(errors='replace')[-2000:]}")
            return None
        facts = json.loads((folder / "facts.json").read_text())
    time_share = facts["wall_seconds"] / (ALLOWED_FACTOR * case.budget + ALLOWED_SECONDS)
    memory_share = ran.peak_of_one_bytes / (ALLOWED_TIMES * data_bytes + ALLOWED_BYTES)
    print(
        f"{name:<14} seed {seed}  budget {case.budget:>3} s  wall {facts['wall_seconds']:>6.1f} s  "
        f"largest process {ran.peak_of_one_bytes / 1e9:.2f} GB  all {ran.peak_bytes / 1e9:.2f} GB  "
        f"data {data_bytes / 1e9:.3f} GB  {facts['trials']} trials  {case.metric} {facts['model']:.5g}",
        flush=True,
    )
    return Outcome(time_share, memory_share)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES), action="append", help="only this one; may be given again")
    parser.add_argument("--all", action="store_true", help="all runs of each case, half an hour; else one of each")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one_job(args.one, args.seed, args.folder)
        return 0
    wanted = [(n, s) for n, c in CASES.items() if n in (args.case or CASES) for s in range(c.runs if args.all else 1)]
    outcomes = [measure(name, seed) for name, seed in wanted]
    good = [o for o in outcomes if o is not None]
    in_time = sum(o.time_share <= 1 for o in good)
    record("jobs that kept their time", 100 * in_time / len(outcomes), "%")
    record("longest job of what it may take", max(o.time_share for o in good))
    record("most memory of what it may take", max(o.memory_share for o in good))
    return 0 if len(good) == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
