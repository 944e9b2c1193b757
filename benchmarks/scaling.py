"""What four workers gain over one: a fixed number of trials whose fits sleep, on one study in a journal, each worker a process.

Sleeping fits take no core, so the figure says what the search itself costs (asking, telling, storing) and not how many cores there
are. Time counts from the start of the first trial to the end of the last; threads are pinned to one.

    python benchmarks/scaling.py [--trials 24] [--seconds 0.3] [--workers 4]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from figures import record
from optuna.trial import TrialState

from search.fakes import make_context, make_limits, open_job_study

TESTS = Path(__file__).parent.parent / "tests"


def seconds_with(workers: int, trials: int, seconds_per_fit: float) -> float:
    """From the first trial's start to the last one's end."""
    with tempfile.TemporaryDirectory() as folder:
        study = open_job_study(make_context(Path(folder)), make_limits(max_trials=trials))
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(TESTS), *(p for p in sys.path if p)]),
        }
        program = [sys.executable, str(TESTS / "search" / "fakes.py"), folder]
        started = [
            subprocess.Popen([*program, f"pod-{i}", str(seconds_per_fit)], env=environment, stdout=subprocess.DEVNULL)
            for i in range(workers)
        ]
        if any(worker.wait() for worker in started):
            raise SystemExit("a worker failed")
        ended = [t for t in study.get_trials(deepcopy=False) if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        if len(ended) != trials:
            raise SystemExit(f"{trials} trials must have ended, got {len(ended)}")
        starts = [t.datetime_start for t in ended if t.datetime_start is not None]
        ends = [t.datetime_complete for t in ended if t.datetime_complete is not None]
        return (max(ends) - min(starts)).total_seconds()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=0.3, help="of one fit; a trial has three")
    parser.add_argument("--workers", type=int, default=4)
    given = parser.parse_args()
    alone = seconds_with(1, given.trials, given.seconds)
    together = seconds_with(given.workers, given.trials, given.seconds)
    record("seconds, one worker", alone, "s")
    record(f"seconds, {given.workers} workers", together, "s")
    record(f"times sooner, {given.workers} workers", alone / together)
    return 0


if __name__ == "__main__":
    sys.exit(main())
