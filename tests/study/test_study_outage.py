"""Eight workers while the study server and PostgreSQL are killed under them: no trial fails, is lost or is counted twice."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState

from kubeautoml.api.errors import StudyError
from kubeautoml.study import create_study, load_summary, open_study_storage
from kubeautoml.study.database import open_database
from real.postgres import PostgresServer
from real.restartable import RestartablePostgres, restartable_postgres
from real.study_server import running_study_server

WORKERS = 8
OUTAGE_SECONDS = float(os.environ.get("KUBEAUTOML_TEST_OUTAGE_SECONDS", "3"))

WORKER = """
import sys, time
from pathlib import Path
from kubeautoml.study import create_study, open_study_storage
url, name, worker, stop = sys.argv[1:]
study = create_study(open_study_storage(url), name, "maximize")
told = 0
while not Path(stop).exists():
    trial = study.ask()
    trial.set_user_attr("pod_uid", worker)
    x = trial.suggest_float("x", 0, 1)
    trial.suggest_int("n", 1, 9)
    trial.report(x, 0)
    study.tell(trial, x)
    told += 1
    print(trial.number, x, flush=True)  # acknowledged: from now on it must be there
    time.sleep(0.02)
"""


@pytest.fixture
def postgres() -> Iterator[RestartablePostgres]:
    with restartable_postgres() as server:
        yield server


class Workers:
    """Processes that run trials until the file `stop` is there, and print each that was taken."""

    def __init__(self, url: str, name: str, folder: Path) -> None:
        self._stop = folder / "stop"
        self._files = [folder / f"worker-{n}" for n in range(WORKERS)]
        self._processes = []
        for number, file in enumerate(self._files):
            command = [sys.executable, "-c", WORKER, url, name, f"uid-{number}", str(self._stop)]
            with file.open("w") as out:
                self._processes.append(
                    subprocess.Popen(
                        command, stdout=out, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
                    )
                )

    def told(self) -> dict[int, float]:
        """Value by number of every trial that was acknowledged."""
        lines = [line.split() for file in self._files for line in file.read_text().splitlines()]
        return {int(number): float(value) for number, value in lines}

    def lines(self) -> int:
        return sum(len(file.read_text().splitlines()) for file in self._files)

    def wait_for(self, more: int) -> None:
        """Until so many further trials were acknowledged."""
        goal, deadline = self.lines() + more, time.monotonic() + 200
        while self.lines() < goal:
            assert time.monotonic() < deadline, "workers did not go on"
            assert all(p.poll() is None for p in self._processes), self.errors()
            time.sleep(0.05)

    def errors(self) -> list[str]:
        """The last words of those that have ended."""
        ended = [p for p in self._processes if p.poll() is not None and p.stderr is not None]
        return [p.stderr.read().decode()[-2000:] for p in ended if p.stderr is not None]

    def finish(self) -> list[int]:
        """Exit codes."""
        self._stop.touch()
        return [p.wait(timeout=200) for p in self._processes]

    def end(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def check(url: str, name: str, workers: Workers) -> None:
    """Nobody failed; every acknowledged trial is there, once, with its value and parameters; none is left half done."""
    codes = workers.finish()
    assert codes == [0] * WORKERS, workers.errors()
    study = create_study(open_study_storage(url), name, "maximize")
    trials = study.get_trials()
    told = workers.told()
    assert workers.lines() == len(told)
    assert {t.number: t.value for t in trials} == told
    assert Counter(t.state for t in trials) == {TrialState.COMPLETE: len(told)}
    assert [t.number for t in trials] == list(range(len(told)))
    assert all(t.params["x"] == t.value and set(t.params) == {"x", "n"} for t in trials)
    assert all(t.intermediate_values == {0: t.value} and "pod_uid" in t.user_attrs for t in trials)
    summary = load_summary(open_study_storage(url), name)
    assert summary is not None
    assert (summary.completed, summary.running, summary.failed) == (len(told), 0, 0)


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.timeout(600)
def test_study_server_and_database_may_be_killed_under_eight_workers(
    postgres: RestartablePostgres, name: str, tmp_path: Path
):
    """SIGKILL of either, of both, and of one backend; each stays away for a while."""
    url = postgres.server.create_database()
    with running_study_server(url) as server:
        workers = Workers(server.url, name, tmp_path)
        try:
            workers.wait_for(20)
            server.kill()
            time.sleep(OUTAGE_SECONDS)
            server.start()
            workers.wait_for(20)
            postgres.kill()
            time.sleep(OUTAGE_SECONDS)
            postgres.start()
            workers.wait_for(20)
            assert postgres.kill_backend(0.5)
            workers.wait_for(20)
            server.kill()
            postgres.kill()
            postgres.start()
            server.start()
            workers.wait_for(20)
            check(server.url, name, workers)
        finally:
            workers.end()


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.timeout(600)
def test_workers_with_a_database_of_their_own_outlive_it(postgres: RestartablePostgres, name: str, tmp_path: Path):
    """Straight to postgresql://, without a study server."""
    url = postgres.server.create_database()
    workers = Workers(url, name, tmp_path)
    try:
        workers.wait_for(20)
        postgres.kill()
        time.sleep(OUTAGE_SECONDS)
        postgres.start()
        workers.wait_for(20)
        assert postgres.kill_backend(0.5)
        workers.wait_for(20)
        check(url, name, workers)
    finally:
        workers.end()


@pytest.mark.postgres
def test_a_client_that_comes_while_the_database_is_away_waits_for_it(postgres: RestartablePostgres, name: str):
    """A worker's pod that starts in the middle of an outage does not fail."""
    url = postgres.server.create_database()
    create_study(open_study_storage(url), name, "maximize")
    postgres.kill()
    threading.Timer(1.0, postgres.start).start()

    study = create_study(open_study_storage(url, patience_seconds=60), name, "maximize")

    assert study.get_trials() == []


@pytest.mark.postgres
def test_a_database_that_stays_away_is_named(postgres: RestartablePostgres, name: str):
    """After the client's patience, in one line, without the password."""
    storage = open_database(postgres.server.create_database(), patience_seconds=0.5)
    study = create_study(storage, name, "maximize")
    postgres.kill()

    with pytest.raises(
        StudyError, match=r"study database postgresql://studies:\*\*\*@.* did not answer for 0 s"
    ) as caught:
        study.ask()

    assert postgres.server.password not in str(caught.value)


@pytest.mark.postgres
def test_a_write_that_comes_twice_is_written_once(postgres_server: PostgresServer, name: str):
    """To the database itself: a begin, a claim and an end whose first answers were lost with the connection."""
    backend = open_database(postgres_server.create_database())._backend
    study = create_study(open_database(backend.url.replace("+psycopg", "")), name, "maximize")
    begun = [backend.create_trial(study._study_id, None, "request-1", is_repeat=r) for r in (False, True)]
    study.enqueue_trial({"x": 1})
    queued = study.get_trials()[1]._trial_id
    claimed = [backend.claim_trial(queued, request) for request in ("mine", "mine", "another's")]
    ended = [backend.set_trial_state_values(queued, TrialState.COMPLETE, [0.5], is_repeat=r) for r in (False, True)]

    assert begun[0].trial_id == begun[1].trial_id
    assert (claimed, ended) == ([True, True, False], [True, True])
    assert [t.value for t in study.get_trials()] == [None, 0.5]


def test_a_server_that_starts_before_its_database_waits(postgres: RestartablePostgres):
    """Both come back from the same outage in any order; nobody has to start the server again."""
    url = postgres.server.create_database()
    postgres.stop_at_once()
    back = threading.Timer(3.0, postgres.start)
    back.start()

    with running_study_server(url) as server:
        number = create_study(open_study_storage(server.url), "team-a/early/1", "maximize").ask().number
    back.join()

    assert number == 0


def test_a_server_told_to_leave_while_it_waits_leaves(tmp_path: Path):
    """SIGTERM is heard before the database answers."""
    command = [sys.executable, "-m", "kubeautoml.study.server", "--database-url", "postgresql://u:p@127.0.0.1:9/d"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--listen", "127.0.0.1:0"], stderr=log)
    while "no answer at the start" not in (tmp_path / "log").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()

    assert process.wait(timeout=20) in (0, 1)
