"""What the shared study costs a worker between two trials: tell, ask, 8 parameters, 3 attributes, 5 reports.

One worker, 200 trials with nothing to fit; the first twenty warm up and are left out. PostgreSQL is a real server in a
temporary folder, with the durable settings it comes with. The baseline is Optuna as it comes, straight to PostgreSQL.

    python benchmarks/study.py [--trials 200]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import optuna
from figures import record

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from kubeautoml.study import create_study, open_study_storage
from real.postgres import running_postgres
from real.study_server import running_study_server

WARM_UP = 20
GOALS_MS = {"journal": 100.0, "study server on PostgreSQL": 250.0}


def seconds_between_trials(study: optuna.Study, trials: int) -> list[float]:
    """Time from the end of one trial's work to the start of the next one's, with all that is written meanwhile."""
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    taken = []
    for number in range(trials):
        started = time.perf_counter()
        trial = study.ask()
        for index in range(8):
            trial.suggest_float(f"parameter_{index}", 1e-3, 1.0, log=True)
        for index in range(3):
            trial.set_user_attr(f"attribute_{index}", "x" * 40)
        for step in range(5):
            trial.report(number / (step + 1), step)
        study.tell(trial, float(number))
        taken.append(time.perf_counter() - started)
    return taken[WARM_UP:]


@contextmanager
def studies() -> Iterator[dict[str, optuna.Study]]:
    """A study of each kind, by its name in the table; the baseline comes first."""
    with tempfile.TemporaryDirectory() as folder, running_postgres(durable=True) as postgres:
        direct, served = postgres.create_database(), postgres.create_database()
        with running_study_server(served) as server:
            plain = direct.replace("postgresql://", "postgresql+psycopg://")
            yield {
                "Optuna, straight to PostgreSQL": optuna.create_study(storage=plain, study_name="a"),
                "PostgreSQL": create_study(open_study_storage(postgres.create_database()), "a", "minimize"),
                "study server on PostgreSQL": create_study(open_study_storage(server.url), "a", "minimize"),
                "journal": create_study(open_study_storage(f"journal://{folder}/study.log"), "a", "minimize"),
                "SQLite": create_study(open_study_storage(f"sqlite://{folder}/study.db"), "a", "minimize"),
            }


def main() -> int:
    parser = argparse.ArgumentParser(description="Time between two trials, by kind of study.")
    parser.add_argument("--trials", type=int, default=200)
    trials = parser.parse_args().trials
    print(f"{'study':32}{'p50 ms':>10}{'p95 ms':>10}{'goal p95':>10}{'p95 ratio':>11}")
    missed, baseline = 0, 0.0
    with studies() as kinds:
        for kind, study in kinds.items():
            taken = np.array(seconds_between_trials(study, trials)) * 1000
            p50, p95 = np.percentile(taken, [50, 95])
            baseline = baseline or p95
            goal = GOALS_MS.get(kind)
            missed += goal is not None and p95 > goal
            print(f"{kind:32}{p50:10.1f}{p95:10.1f}{goal or '-':>10}{p95 / baseline:11.2f}")
            record(f"between two trials p95, {kind}", p95, "ms")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
