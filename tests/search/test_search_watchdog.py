"""A fit that does not return is left behind, and the worker goes on in a new process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from kubeautoml_trainer.search.watchdog import Watchdog, due_at
from search.fakes import make_context, make_limits, open_job_study

WORKER = textwrap.dedent("""
    import hashlib, os, sys, time
    from pathlib import Path
    from kubeautoml_trainer.search import watchdog
    from search.fakes import FakeFamily, make_context, make_loop

    watchdog.GRACE_SECONDS, watchdog.END_GRACE_SECONDS = 0.2, 0.2
    print("process", os.getpid(), flush=True)

    def never(parameters, context):
        if context.deadline - time.monotonic() < 60:  # the first trial may take all the time
            hashlib.pbkdf2_hmac("sha256", b"never", b"returns", 2_000_000_000)

    good = FakeFamily(name="Good", entries=((0, {"rate": 0.5}),))
    slow = FakeFamily(name="Slow", entries=((1, {"rate": 0.4}),), on_fit=never)
    running = make_loop(make_context(Path(sys.argv[1]), pruner={"type": "None"}), (good, slow))
    running.ends_overrun_fits = True
    print("left:", running.run(), flush=True)
""")


def test_a_fit_that_does_not_return_costs_its_trial_and_its_family_and_not_the_search(tmp_path: Path) -> None:
    """The trial is over and not queued again; the same process number goes on with other families until the budget ends."""
    import time

    study = open_job_study(make_context(tmp_path), make_limits(max_trials=6, search_deadline=time.time() + 12))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    # the restart needs a program it can start again: a file, as a container's entry point is
    program = tmp_path / "worker.py"
    program.write_text(WORKER)

    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path)], capture_output=True, text=True, timeout=120, env=environment
    )

    assert done.returncode == 0, done.stderr
    processes = [line for line in done.stdout.splitlines() if line.startswith("process")]
    assert len(processes) == 2 and len(set(processes)) == 1
    assert done.stdout.splitlines()[-1] == "left: max trials"
    trials = study.get_trials(deepcopy=False)
    given_up = [t for t in trials if t.user_attrs.get("overran")]
    assert [(t.number, t.state.name, t.params["family"]) for t in given_up] == [(1, "PRUNED", "Slow")]
    assert "preempted" not in given_up[0].user_attrs
    assert {t.params["family"] for t in trials[2:]} == {"Good"}
    assert [t.state.name for t in trials] == ["COMPLETE", "PRUNED"] + ["COMPLETE"] * 4


def test_a_fit_has_grace_and_the_end_of_the_search_little_of_it() -> None:
    """As much again as it was given, ten seconds at least; once the finalizer waits, three."""
    assert due_at(0.0, 4.0, None) == 14.0
    assert due_at(0.0, 30.0, None) == 60.0
    assert due_at(0.0, 30.0, 31.0) == 34.0
    assert due_at(0.0, float("inf"), None) is None


def test_the_watchdog_acts_once_and_only_when_the_fit_is_still_running() -> None:
    """It restarts within the search and leaves after it; a fit that came back just then is not given up."""
    now, acts, still = [0.0], [], [True]
    dog = Watchdog(
        lambda: still[0],
        restart=lambda: acts.append("restart"),
        leave=lambda: acts.append("leave"),
        clock=lambda: now[0],
    )
    dog._thread = object()  # type: ignore[assignment]  # the test looks itself

    dog.watch(5.0, 100.0)
    assert not dog.check()
    now[0] = 16.0
    still[0] = False
    assert not dog.check()
    still[0] = True
    assert dog.check() and not dog.check()
    dog.watch(100.0, 100.0)
    now[0] = 104.0
    assert dog.check()
    dog.watch(110.0, None)
    dog.rest()
    now[0] = 1000.0
    assert not dog.check()

    assert acts == ["restart", "leave"]
