"""How soon another operator acts when the one that led is gone, on a real API server.

    python benchmarks/operator_failover.py [--rounds 3]

The clock runs from the signal until a job created at that moment has its worker Job: the lease was taken, the queue is
warm, and a pass has been made. Goals: 20 s after SIGKILL, 3 s after SIGTERM.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from figures import record
from operator_world import ROOT, create_job, make_job, wait, worker_jobs

from real.controlplane import ControlPlane, running_control_plane
from real.operator_process import OperatorProcess, running_operator

NAMESPACE = "bench"


def main() -> int:
    parser = argparse.ArgumentParser(description="How soon another operator acts.")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plane = stack.enter_context(running_control_plane(ROOT / "crds"))
        plane.create_namespace(NAMESPACE)
        for name, number in (("SIGTERM", signal.SIGTERM), ("SIGKILL", signal.SIGKILL)):
            taken = [one_round(plane, folder, f"{name.lower()}-{n}", number) for n in range(rounds)]
            print(f"{name}: {', '.join(f'{seconds:.2f}' for seconds in taken)} s", flush=True)
            record(f"longest fail-over after {name}", max(taken), "s")
    return 0


def one_round(plane: ControlPlane, folder: Path, name: str, number: int) -> float:
    """Seconds from the signal to the first deed of the other."""
    with operator(plane, folder, f"{name}-a") as first:
        wait(lambda: leads(first), 60, "the first operator leads")
        with operator(plane, folder, f"{name}-b") as second:
            wait(lambda: second.ask("/readyz")[0] == 200, 60, "the second operator is ready")
            began = time.monotonic()
            first.process.send_signal(number)
            create_job(plane, make_job(NAMESPACE, name))
            wait(lambda: name in worker_jobs(plane, NAMESPACE), 60, "the second operator acts")
            return time.monotonic() - began


def operator(plane: ControlPlane, folder: Path, name: str) -> OperatorProcess:
    return running_operator(plane, folder / f"{name}.log", "-n", NAMESPACE, lease_namespace=NAMESPACE)


def leads(one: OperatorProcess) -> bool:
    return one.metric("kubeautoml_leader") == 1


if __name__ == "__main__":
    sys.exit(main())
