"""A worker that is killed, told to leave, or has no study, storage or disk any more: no trial is lost or counted twice."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from kubeautoml.api.errors import AccessDenied, StorageError, StorageUnavailable, StudyError
from kubeautoml.api.trials import RetireTrial, StudyOrders
from kubeautoml.storage import open_store
from kubeautoml.study import carry_out_orders, load_summary
from kubeautoml_trainer.artifacts import read_record
from kubeautoml_trainer.search.outage import persistently
from kubeautoml_trainer.search.signals import Terminated
from search import fakes
from search.fakes import FakeFamily, make_context, make_limits, make_loop, open_job_study, states


def start_worker(folder: Path, pod: str, seconds_per_fit: float) -> subprocess.Popen[str]:
    """A worker process; returns when its first fit has begun."""
    tests = str(Path(fakes.__file__).parent.parent)
    command = [sys.executable, fakes.__file__, str(folder), pod, str(seconds_per_fit)]
    env = {**os.environ, "PYTHONPATH": tests, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    assert process.stdout.readline() == "fit\n"
    return process


def test_a_killed_workers_trial_is_run_again_and_nothing_is_lost_or_doubled(tmp_path):
    """kill -9; the operator retires the trial; another worker runs attempt 2 with the same parameters."""
    context = make_context(tmp_path)
    study = open_job_study(context, make_limits(max_trials=3))
    worker = start_worker(tmp_path, "pod-1", 60.0)
    worker.kill()
    worker.wait()
    [lost] = load_summary(study._storage, context.job.study_name).running_trials
    assert (lost.number, lost.pod_uid) == (0, "pod-1-uid")

    order = RetireTrial(0, 1, "Preempted", requeue=True)
    carry_out_orders(study._storage, context.job.study_name, StudyOrders(retire=(order,)))
    make_loop(make_context(tmp_path, "pod-2"), (FakeFamily(),)).run()

    trials = study.get_trials(deepcopy=False)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert trials[1].params == trials[0].params == {"family": "Fake", "Fake.rate": 0.1}
    assert trials[1].user_attrs["attempt"] == 2
    assert [t.user_attrs.get("portfolio") for t in trials] == [0, 0, 1, None]
    assert load_summary(study._storage, context.job.study_name).preempted == 1


def test_sigterm_hands_the_running_trial_back(tmp_path):
    """The worker leaves at once with 143; the trial is marked preempted, so that it is queued again."""
    context = make_context(tmp_path)
    study = open_job_study(context, make_limits())
    worker = start_worker(tmp_path, "pod-1", 60.0)
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)

    assert worker.wait() == 143

    assert time.monotonic() - began < 10
    summary = load_summary(study._storage, context.job.study_name)
    assert (summary.preempted, summary.running, summary.failed) == (1, 0, 0)


def test_sigterm_while_a_result_is_being_stored_keeps_the_result(tmp_path, monkeypatch):
    """The trial is complete and nothing of it is preempted; then the worker leaves."""
    context = make_context(tmp_path)
    study = open_job_study(context, make_limits())
    loop = make_loop(context, (FakeFamily(),), study)
    write = type(loop.store).write

    def interrupted(self, uri: str, data: bytes) -> None:
        loop.guard.on_signal(signal.SIGTERM, None)
        write(self, uri, data)

    monkeypatch.setattr(type(loop.store), "write", interrupted)
    with pytest.raises(Terminated):
        loop.run()

    assert states(study) == ["COMPLETE"]
    assert "preempted" not in study.trials[0].user_attrs
    assert read_record(loop.store, context.job.paths, 0).number == 0


def test_an_outage_is_waited_for_with_growing_pauses():
    """A finished trial is told as soon as the study answers again."""
    answers = [ConnectionError("away"), OSError("away"), "told"]
    pauses: list[float] = []

    def act() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    assert persistently(act, sleep=pauses.append) == "told"
    assert pauses == [0.2, 0.4]


def test_a_study_that_stays_away_ends_the_worker_in_one_line():
    """After the time allowed; a mistake of ours is not repeated at all."""

    def away() -> None:
        raise ConnectionError("refused")

    def mistaken() -> None:
        raise TypeError("no")

    with pytest.raises(StudyError, match="did not answer for 0 s: ConnectionError: refused"):
        persistently(away, seconds=0)
    with pytest.raises(TypeError):
        persistently(mistaken)
    with pytest.raises(Terminated):
        persistently(away, abandon=lambda: True)


def test_a_fit_that_does_not_return_does_not_keep_the_process(tmp_path: Path) -> None:
    """Python sees no signal while a library computes; a thread ends the process in time, with SIGTERM's exit code."""
    program = textwrap.dedent("""
        import hashlib
        from kubeautoml_trainer.search import signals

        signals.LAST_WORDS_SECONDS, signals.LEAVE_SECONDS = 0.2, 0.5
        guard = signals.TerminationGuard()
        guard.install()
        with guard.protected():  # SIGTERM may come before the computation has begun, and must not break it then
            print("ready", flush=True)
            hashlib.pbkdf2_hmac("sha256", b"never", b"returns", 2_000_000_000)
    """)
    worker = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 143
    finally:
        worker.kill()


def test_a_trial_whose_fit_does_not_return_is_handed_back_all_the_same(tmp_path: Path) -> None:
    """With the folds that it has done: the thread that ends the process says for it what it cannot say."""
    program = textwrap.dedent("""
        import hashlib, sys
        from pathlib import Path
        from kubeautoml_trainer.search import loop, signals
        from search.fakes import FakeFamily, make_context, make_loop

        signals.LAST_WORDS_SECONDS, signals.LEAVE_SECONDS = 0.2, 60.0
        loop.WORTH_KEEPING_SECONDS = 0.0
        fits = []

        def on_fit(parameters, context):
            fits.append(1)
            if len(fits) == 2:
                print("ready", flush=True)
                hashlib.pbkdf2_hmac("sha256", b"never", b"returns", 2_000_000_000)

        running = make_loop(make_context(Path(sys.argv[1])), (FakeFamily(on_fit=on_fit),))
        running.guard.install()
        running.run()
    """)
    context = make_context(tmp_path)
    study = open_job_study(context, make_limits())
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", program, str(tmp_path)]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
        worker.send_signal(signal.SIGTERM)
        until = time.monotonic() + 60
        while states(study) != ["FAIL"]:
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        worker.kill()
        worker.wait()

    assert study.trials[0].user_attrs["preempted"] is True
    stored = open_store(context.job.output.uri).find(context.job.paths.checkpoint())
    assert [o.uri.rpartition("/")[2] for o in stored] == ["0.tar"]


@pytest.mark.parametrize("refusal", [StorageUnavailable("away"), AccessDenied("the keys were taken back")])
def test_a_trial_that_cannot_be_stored_is_handed_back(tmp_path, monkeypatch, refusal):
    """It has not failed: its next attempt may find the storage there again. The worker leaves and says why."""
    context = make_context(tmp_path)
    study = open_job_study(context, make_limits())
    loop = make_loop(context, (FakeFamily(),), study)
    monkeypatch.setattr(loop._telling, "persistently", lambda act, impatient=False: persistently(act, seconds=0))

    def refuse(uri: str, data: bytes) -> None:
        raise refusal

    monkeypatch.setattr(loop.store, "write", refuse)
    with pytest.raises(type(refusal), match=str(refusal)):
        loop.run()

    summary = load_summary(study._storage, context.job.study_name)
    assert (summary.preempted, summary.failed, summary.running, summary.completed) == (1, 0, 0, 0)


def test_sigterm_while_the_storage_is_away_hands_the_trial_back(tmp_path, monkeypatch):
    """There is no time to wait for it."""
    context = make_context(tmp_path)
    study = open_job_study(context, make_limits())
    loop = make_loop(context, (FakeFamily(),), study)

    def interrupted(uri: str, data: bytes) -> None:
        loop.guard.on_signal(signal.SIGTERM, None)
        raise StorageUnavailable("away")

    monkeypatch.setattr(loop.store, "write", interrupted)
    with pytest.raises(Terminated):
        loop.run()

    summary = load_summary(study._storage, context.job.study_name)
    assert (summary.preempted, summary.failed, summary.running) == (1, 0, 0)


def test_a_full_disk_of_the_pod_is_not_the_fault_of_the_trial(tmp_path):
    """It is handed back, since the next one would fail, too; the message says what to do."""

    def on_fit(parameters, fit_context):
        raise RuntimeError("saving failed") from OSError(errno.ENOSPC, "No space left on device")

    context = make_context(tmp_path)
    study = open_job_study(context, make_limits())

    with pytest.raises(StorageError, match=r"the pod's disk is full .* ephemeral storage"):
        make_loop(context, (FakeFamily(on_fit=on_fit),), study).run()

    summary = load_summary(study._storage, context.job.study_name)
    assert (summary.preempted, summary.failed, summary.running) == (1, 0, 0)
