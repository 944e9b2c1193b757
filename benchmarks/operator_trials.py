"""One job with very many trials, written by fake workers that need no time: how large its status gets, how late, how dear.

    python benchmarks/operator_trials.py [--trials 20000] [--per-second 400]

A real API server, the operator as a process, the study server in front of PostgreSQL. The fake workers send finished
trials to the study server, each in one call, as fast as it takes them. Goals: the object stays below 32 KiB at every moment (all of it,
with the record of field managers), the status is never more than 10 s behind, at most 0.1 API writes a trial.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from bisect import bisect_right
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from figures import record
from operator_world import ROOT, buckets, create_job, make_job, memory_mib, quantile, wait, writes
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from kubeautoml.study import open_study_storage
from real.controlplane import ControlPlane, running_control_plane
from real.operator_process import running_operator
from real.postgres import running_postgres
from real.study_server import running_study_server

NAMESPACE, NAME = "bench", "many-trials"
WRITERS = 4
LOOK_SECONDS = 0.25


def main() -> int:
    parser = argparse.ArgumentParser(description="One job with very many trials.")
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--per-second", type=float, default=400.0, help="at most; the study server may be slower")
    args = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plane = stack.enter_context(running_control_plane(ROOT / "crds"))
        database = stack.enter_context(running_postgres()).create_database()
        study = stack.enter_context(running_study_server(database))
        plane.create_namespace(NAMESPACE)
        operator = stack.enter_context(
            running_operator(
                plane, folder / "operator.log", "-n", NAMESPACE, lease_namespace=NAMESPACE, study_url=study.url
            )
        )
        create_job(plane, make_job(NAMESPACE, NAME, budget={"maxTrials": 100_000}))
        storage = open_study_storage(study.url)
        study_id = wait(lambda: found_study(storage), 60, "the study exists")
        wait(lambda: status(plane).get("trials") is not None, 60, "the job has a status")
        before = writes(operator, with_lease=False)
        watcher = Watcher(plane)
        watcher.start()
        write_trials(storage, study_id, args.trials, args.per_second, watcher)
        wait(lambda: shown(plane) == args.trials, 60, "the status shows every trial")
        watcher.stop()
        record("largest object", watcher.largest / 1024, "KiB")
        record("longest lag of the status", watcher.lag_seconds(), "s")
        record("API writes a trial", (writes(operator, with_lease=False) - before) / args.trials, "writes")
        record("trials a second", args.trials / watcher.writing_seconds, f"({args.trials} trials)")
        record("memory of the operator", memory_mib(operator.pid), "MiB")
        record("peak memory of the operator", memory_mib(operator.pid, "VmHWM"), "MiB")
        record("reconcile p99", quantile(buckets(operator, "kubeautoml_reconcile_duration_seconds"), 0.99), "s")
    return 0


def path() -> str:
    return f"/apis/kubeautoml.dev/v1alpha1/namespaces/{NAMESPACE}/automljobs/{NAME}"


def status(plane: ControlPlane) -> dict[str, Any]:
    return dict(plane.admin.get(path()).get("status", {}))


def shown(plane: ControlPlane) -> int:
    return int(status(plane)["trials"].get("completed", 0))


def found_study(storage: Any) -> int | None:
    studies = storage.get_all_studies()
    return int(studies[0]._study_id) if studies else None


class Watcher:
    """Looks at the object all the time, and remembers when how many trials were finished and shown."""

    def __init__(self, plane: ControlPlane) -> None:
        self.largest = 0
        self._plane = plane
        self._finished: list[float] = []
        self._shown: list[tuple[float, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)

    def finished(self, count: int) -> None:
        """So many more trials are in the study now."""
        self._finished += [time.monotonic()] * count

    @property
    def writing_seconds(self) -> float:
        return self._finished[-1] - self._finished[0]

    def lag_seconds(self) -> float:
        """The longest time that a finished trial was not shown: at each look, the age of the first that is missing."""
        longest = 0.0
        for at, count in self._shown:
            if count < bisect_right(self._finished, at):
                longest = max(longest, at - self._finished[count])
        return longest

    def _look(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            at = time.monotonic()
            found = self._plane.admin.get(path())
            self.largest = max(self.largest, len(json.dumps(found, separators=(",", ":"))))
            self._shown.append((at, int(found["status"]["trials"].get("completed", 0))))


def write_trials(storage: Any, study_id: int, trials: int, per_second: float, watcher: Watcher) -> None:
    began, lock, made = time.monotonic(), threading.Lock(), 0

    def write() -> None:
        nonlocal made
        while True:
            with lock:
                number = made
                if number >= trials:
                    return
                made += 1
            time.sleep(max(0.0, began + number / per_second - time.monotonic()))
            storage.create_new_trial(study_id, template_trial=finished_trial(number))
            with lock:
                watcher.finished(1)

    threads = [threading.Thread(target=write) for _ in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


SPACE = {
    "family": CategoricalDistribution(["LightGbm", "CatBoost", "TorchMlp"]),
    **{f"LightGbm.parameter_{n}": FloatDistribution(1e-6, 1.0, log=True) for n in range(3)},
    "LightGbm.num_leaves": IntDistribution(2, 4096, log=True),
}


def finished_trial(number: int) -> FrozenTrial:
    """As a worker leaves it: each is better than the last, so the leaderboard changes all the time."""
    now = datetime.now()
    trial = create_trial(
        state=TrialState.COMPLETE,
        value=1.0 - 1.0 / (number + 2),
        params={
            "family": "LightGbm",
            **{f"LightGbm.parameter_{n}": 1e-6 + (number * (n + 1) % 9973) / 1e4 for n in range(3)},
            "LightGbm.num_leaves": 2 + number % 4000,
        },
        distributions=SPACE,
        user_attrs={"pod_uid": "2c5ea4c0-4067-11e9-8bad-9b1deb4d3b7d", "attempt": 1, "family": "LightGbm"},
    )
    trial.datetime_start, trial.datetime_complete = now - timedelta(seconds=1), now
    return trial


if __name__ == "__main__":
    sys.exit(main())
