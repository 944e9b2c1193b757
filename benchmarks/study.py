"""What the shared study costs workers between two trials: tell, ask, 8 parameters, 3 attributes, 5 reports.

Three tables. One worker: the time between two trials, by kind of study. Eight workers on one study, each a process, with nothing
to fit: trials a second through Optuna straight to PostgreSQL, through the study server, and through the study server when every
call carries a token that is looked up. Then the operator's summary of a study of 20,000 trials. PostgreSQL is a real server
in a temporary folder, with the durable settings it comes with. Workers run the same code; only the storage differs.

    python benchmarks/study.py [--trials 200] [--workers 8] [--seconds 15] [--large 20000]
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from figures import record

from kubeautoml.api.names import LABEL_JOB, LABEL_JOB_UID, STUDY_TOKEN_AUDIENCE, worker_job_name
from kubeautoml.study import create_study, load_summary, open_study_storage
from kubeautoml.study.database import open_backend
from kubeautoml.study.identity import Callers
from kubeautoml.study.kube_api import TokenUser
from real.postgres import running_postgres
from real.study_server import running_study_server

WARM_UP = 20
GOALS_MS = {"journal": 100.0, "study server on PostgreSQL": 250.0}
LEAST_RATIO = 2.0
"""Trials a second through the study server, against Optuna's own way to the same database (issue 3)."""


def run_trial(study: optuna.Study, number: int) -> None:
    """One trial with nothing to fit, and all that a worker writes about it."""
    trial = study.ask()
    for index in range(8):
        trial.suggest_float(f"parameter_{index}", 1e-3, 1.0, log=True)
    for index in range(3):
        trial.set_user_attr(f"attribute_{index}", "x" * 40)
    for step in range(5):
        trial.report(number / (step + 1), step)
    study.tell(trial, float(number))


def seconds_between_trials(study: optuna.Study, trials: int) -> list[float]:
    """Time from the end of one trial's work to the start of the next one's, with all that is written meanwhile."""
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    taken = []
    for number in range(trials):
        started = time.perf_counter()
        run_trial(study, number)
        taken.append(time.perf_counter() - started)
    return taken[WARM_UP:]


@contextmanager
def studies() -> Iterator[dict[str, optuna.Study]]:
    """A study of each kind, by its name in the table; the baseline comes first."""
    with tempfile.TemporaryDirectory() as folder, running_postgres(durable=True) as postgres:
        direct, served = postgres.create_database(), postgres.create_database()
        with running_study_server(served) as server:
            yield {
                "Optuna, straight to PostgreSQL": optuna.create_study(storage=_plain(direct), study_name="a"),
                "PostgreSQL": create_study(open_study_storage(postgres.create_database()), "a", "minimize"),
                "study server on PostgreSQL": create_study(open_study_storage(server.url), "a", "minimize"),
                "journal": create_study(open_study_storage(f"journal://{folder}/study.log"), "a", "minimize"),
                "SQLite": create_study(open_study_storage(f"sqlite://{folder}/study.db"), "a", "minimize"),
            }


def _plain(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://")


def one_worker(trials: int) -> int:
    """Print the first table; how many goals were missed."""
    print(f"{'study':32}{'p50 ms':>10}{'p95 ms':>10}{'goal p95':>10}{'p95 ratio':>11}")
    missed, baseline, p95s = 0, 0.0, dict[str, float]()
    with studies() as kinds:
        for kind, study in kinds.items():
            taken = np.array(seconds_between_trials(study, trials)) * 1000
            p50, p95 = np.percentile(taken, [50, 95])
            baseline = baseline or p95
            goal = GOALS_MS.get(kind)
            missed += goal is not None and p95 > goal
            print(f"{kind:32}{p50:10.1f}{p95:10.1f}{goal or '-':>10}{p95 / baseline:11.2f}")
            p95s[kind] = p95
    for kind, p95 in p95s.items():
        record(f"between two trials p95, {kind}", p95, "ms")
    return missed


@dataclass(frozen=True)
class Way:
    """How workers reach the study: all that a worker process needs to know."""

    url: str
    is_plain: bool
    """Optuna as it comes."""

    def study(self) -> optuna.Study:
        """The study, made by whoever comes first."""
        if self.is_plain:
            return optuna.create_study(storage=_plain(self.url), study_name="a", load_if_exists=True)
        return create_study(open_study_storage(self.url), "a", "minimize")


def _work(way: Way, seed: int, begin: Any, seconds: float, counts: Any) -> None:
    study = way.study()
    study.sampler = optuna.samplers.RandomSampler(seed=seed)
    run_trial(study, 0)
    begin.wait()
    done, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        run_trial(study, done)
        done += 1
    counts.put(done)


def trials_a_second(way: Way, workers: int, seconds: float) -> float:
    """Trials of all workers together, in a second."""
    way.study()
    context = multiprocessing.get_context("spawn")
    begin, counts = context.Barrier(workers), context.Queue()
    processes = [context.Process(target=_work, args=(way, seed, begin, seconds, counts)) for seed in range(workers)]
    for process in processes:
        process.start()
    total = sum(counts.get(timeout=seconds + 120) for _ in processes)
    for process in processes:
        process.join()
    return total / seconds


def many_workers(workers: int, seconds: float) -> int:
    """Print the second table; how many goals were missed."""
    with running_postgres(durable=True) as postgres:
        direct = trials_a_second(Way(postgres.create_database(), is_plain=True), workers, seconds)
        with running_study_server(postgres.create_database()) as server:
            served = trials_a_second(Way(server.url, is_plain=False), workers, seconds)
    record(f"trials a second, {workers} workers, direct", direct, "1/s")
    record(f"trials a second, {workers} workers, server", served, "1/s")
    record("trials a second, server to direct", served / direct, "x")
    record("token lookup", _lookup_microseconds(), "us a call")
    return int(served < LEAST_RATIO * direct)


class _Api:
    """An API server that knows one pod at once: what remains is our own work."""

    def review(self, token: str, audience: str) -> TokenUser:
        return TokenUser("system:serviceaccount:team-a:default", "pod", "uid")

    def pod_metadata(self, namespace: str, name: str) -> dict[str, Any]:
        owner = {"kind": "Job", "controller": True, "name": worker_job_name("churn", "1")}
        return {"uid": "uid", "labels": {LABEL_JOB: "churn", LABEL_JOB_UID: "1"}, "ownerReferences": [owner]}


def _lookup_microseconds(calls: int = 20_000) -> float:
    """What authentication adds to a call of a caller that is known."""
    from base64 import urlsafe_b64encode
    from json import dumps

    claims = urlsafe_b64encode(dumps({"exp": time.time() + 3600, "aud": [STUDY_TOKEN_AUDIENCE]}).encode()).decode()
    header = f"Bearer head.{claims}.{'s' * 800}"
    callers = Callers(_Api())
    callers.identify(header)
    started = time.perf_counter()
    for _ in range(calls):
        callers.identify(header)
    return (time.perf_counter() - started) / calls * 1e6


def large_study(trials: int) -> None:
    """The operator's look at a large study, and at one in which nothing has changed since."""
    from optuna.distributions import FloatDistribution
    from optuna.storages._grpc.servicer import _to_proto_trial
    from optuna.trial import create_trial

    with running_postgres() as postgres, running_study_server(url := postgres.create_database()) as server:
        study = create_study(open_study_storage(server.url), "a", "maximize")
        space = {f"p{i}": FloatDistribution(0, 1) for i in range(8)}
        backend = open_backend(url)

        def fill(first: int) -> None:
            for number in range(first, trials, 4):
                params = dict.fromkeys(space, number % 997 / 997)
                trial = create_trial(value=float(number % 9973), params=params, distributions=space)
                backend.create_trial(study._study_id, _to_proto_trial(trial))

        threads = [threading.Thread(target=fill, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        storage = open_study_storage(server.url)
        record(f"summary of {trials} trials", _milliseconds(lambda: load_summary(storage, "a")), "ms")


def _milliseconds(act: Callable[[], object], times: int = 20) -> float:
    """The median."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        act()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken) * 1000)


def main() -> int:
    parser = argparse.ArgumentParser(description="What the shared study costs workers and the operator.")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--large", type=int, default=20_000)
    arguments = parser.parse_args()
    missed = one_worker(arguments.trials)
    print()
    missed += many_workers(arguments.workers, arguments.seconds)
    large_study(arguments.large)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
