"""What processes are told to do in `test_finalize_hands.py`: functions that they find by their names."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from multiprocessing import parent_process
from pathlib import Path

from threadpoolctl import threadpool_info

from kubeautoml_trainer.variants.base import Ground


def say(ground: Ground, task: float) -> tuple[int, float, int, int]:
    """(process, task, rows, threads that a product of matrices may take) after a while."""
    time.sleep(0.05)
    threads = max(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
    return os.getpid(), task, len(ground.data.train), threads


def die_of(ground: Ground, task: str) -> str:
    """As the kernel ends a process whose container is out of memory, or not at all."""
    assert parent_process() is not None or task == "well"
    if task == "death":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "never":
        time.sleep(600)
    return task


def is_loaded(ground: Ground, task: str) -> bool:
    """Whether a library is loaded."""
    return task in sys.modules


def name_a_sleeper(ground: Ground, task: str) -> int:
    """A process that goes on, as a fit does."""
    with Path(task).open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(600)
    return 0


def finalizer_with_hands(folder: str) -> None:
    """A process with two hands, until it is killed."""
    from finalize.finalize_factories import ENTRIES, make_searched
    from kubeautoml_trainer.finishing.work import load
    from kubeautoml_trainer.variants.hands import Hands

    searched = make_searched(Path(folder), "MEDV", entries=ENTRIES[1:2])
    work = load(searched.context, searched.study)
    hands = Hands(Ground(searched.context.job, work.data, work.task, 2), 2)
    hands.start(name_a_sleeper, [f"{folder}/sleepers"] * 2, time.monotonic() + 600)()


def start_finalizer(folder: str) -> subprocess.Popen[bytes]:
    program = f"from finalize.hands_acts import finalizer_with_hands; finalizer_with_hands({folder!r})"
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path})
