"""What a worker needs in memory and in time to read data, make it ready, and run one trial.

Every case is a CSV file on disk and a process of its own, which does what a worker pod does: `prepare`, then one LightGBM trial of a few
rounds through all folds. Peak memory is that of the whole process, libraries included; the data in memory is rows x columns x 8 bytes.

    python benchmarks/memory.py [--case long|wide|words] [--scale 0.3]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from figures import record

GIB = 1 << 30
ALLOWED_TIMES, ALLOWED_BYTES = 4, GIB
"""The promise: at most 4 times the data, and 1 GiB."""


@dataclass(frozen=True)
class Case:
    """One shape of data; `rows` at scale 1."""

    rows: int
    columns: int
    categories: int
    """How many of the columns hold words."""
    scales: bool = True


CASES = {
    "long": Case(1_000_000, 50, 10),
    "wide": Case(2_000, 5_000, 0, scales=False),
    "words": Case(1_000_000, 20, 20),
}


def write_csv(case: Case, rows: int, file: Path) -> None:
    """Numbers of six digits, words of a few hundred levels, a target of two classes; written in blocks."""
    random = np.random.default_rng(0)
    block = max(1, 5_000_000 // case.columns)
    for at in range(0, rows, block):
        count = min(block, rows - at)
        numbers = random.normal(size=(count, case.columns - case.categories)).round(5)
        columns: dict[str, Any] = {f"number_{k}": numbers[:, k] for k in range(numbers.shape[1])}
        columns |= {
            f"word_{k}": np.char.add("level_", (random.zipf(1.5, count) % (10 * 3 ** (k % 4))).astype(str))
            for k in range(case.categories)
        }
        signal = numbers[:, 0] if numbers.shape[1] else np.char.str_len(columns["word_0"]) - 7.0
        columns["target"] = np.where(signal + random.normal(size=count) > 0, "yes", "no")
        pd.DataFrame(columns).to_csv(file, mode="a", index=False, header=at == 0)


def work(folder: Path) -> None:
    """The child: what a worker does with the data in `folder`; prints what it took."""
    from kubeautoml.api.pod import PodContext, PodJob
    from kubeautoml.storage import open_store
    from kubeautoml_trainer.data.prepare import prepare
    from kubeautoml_trainer.models import family_named
    from kubeautoml_trainer.search.checkpoint import Checkpoint
    from kubeautoml_trainer.search.plan import Entry
    from kubeautoml_trainer.search.trial import TrialRun, run_trial
    from kubeautoml_trainer.tasks import task_for

    job = PodJob.model_validate(
        {
            "name": "memory",
            "namespace": "default",
            "uid": "uid-1",
            "task": {"type": "TabularClassification", "target": "target"},
            "dataset": {"train": {"uri": f"file://{folder}/train.csv"}, "split": {"folds": 2}},
            "objective": {},
            "constraints": [],
            "search": {},
            "output": {"uri": f"file://{folder}/out"},
        }
    )
    context = PodContext(job, f"journal://{folder}/study", "pod", "pod-uid", folder / "scratch", 1)
    before = peak_bytes()
    began = time.process_time()
    data = prepare(context)
    prepare_seconds, after_prepare = time.process_time() - began, peak_bytes()
    entry = Entry("LightGBM", {"iterations": 10})
    checkpoint = Checkpoint(open_store(job.output.uri), job.paths, 0, entry, context.scratch_dir, is_retry=False)
    run = TrialRun(
        data=data,
        task=task_for(job.task.type, data.schema),
        metric=job.metric,
        threads=1,
        seed=0,
        after_fold=lambda fold, value: None,
        fit_deadline=lambda folds_left, is_short: float("inf"),
        checkpoint=checkpoint,
    )
    run_trial(0, 1, entry, family_named("LightGBM"), run)
    print(
        json.dumps(
            {
                "before": before,
                "prepare": after_prepare,
                "peak": peak_bytes(),
                "prepare_seconds": prepare_seconds,
            }
        )
    )


def peak_bytes() -> int:
    """Most resident memory of this process so far; getrusage would begin with that of the process that started it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def measure(name: str, case: Case, scale: float) -> None:
    rows = round(case.rows * scale) if case.scales else case.rows
    with tempfile.TemporaryDirectory() as folder:
        write_csv(case, rows, Path(folder) / "train.csv")
        command = [sys.executable, __file__, "--work", folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    took = json.loads(done.stdout)
    data = rows * case.columns * 8
    allowed = ALLOWED_TIMES * data + ALLOWED_BYTES
    print(f"{name}: {rows} x {case.columns}, {data / 1e6:.0f} MB of data, libraries {took['before'] / 1e6:.0f} MB")
    record(f"{name}, peak of prepare, times data", (took["prepare"] - took["before"]) / data)
    record(f"{name}, peak with a trial, times data", (took["peak"] - took["before"]) / data)
    record(f"{name}, peak, share of 4 x data + 1 GiB", took["peak"] / allowed)
    record(f"{name}, prepare, CPU seconds a million x 50", took["prepare_seconds"] * 5e7 / (rows * case.columns), "s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=list(CASES), help="only this one")
    parser.add_argument("--scale", type=float, default=0.3, help="share of a million rows (default 0.3)")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work)
        return
    for name, case in CASES.items():
        if args.case in (None, name):
            measure(name, case, args.scale)


if __name__ == "__main__":
    main()
