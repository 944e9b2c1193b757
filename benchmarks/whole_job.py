"""One whole `kubeautoml run`: the manifest is written, the command runs, the finished object comes back."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import yaml


def run_job(
    folder: Path,
    train: pd.DataFrame | Path,
    task: dict[str, Any],
    metric: str,
    budget: int,
    seed: int,
    *,
    test: pd.DataFrame | None = None,
    test_fraction: str | None = None,
    workers: int = 2,
    variants: list[str] | None = None,
    objective: dict[str, Any] | None = None,
    search: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The finished job with `wall_seconds`, of the whole command, added.

    Files are written below `folder`; `train` may be a CSV file that is there already. Without `test` the job sets rows aside
    itself, as it does for a user.
    Raises CalledProcessError when the job fails; its last words are on stderr.
    """
    file = folder / "train.csv" if isinstance(train, pd.DataFrame) else train
    if isinstance(train, pd.DataFrame):
        train.to_csv(file, index=False)
    dataset: dict[str, Any] = {"train": {"uri": f"file://{file}"}}
    if test is not None:
        test.to_csv(folder / "test.csv", index=False)
        dataset["test"] = {"uri": f"file://{folder}/test.csv"}
    if test_fraction is not None:
        dataset["split"] = {"testFraction": test_fraction}
    output: dict[str, Any] = {"uri": f"file://{folder}/out"}
    if variants:
        output["variants"] = variants
    job = {
        "apiVersion": "kubeautoml.dev/v1alpha1",
        "kind": "AutoMLJob",
        "metadata": {"name": "whole-job"},
        "spec": {
            "task": task,
            "dataset": dataset,
            "objective": {"metric": metric, **(objective or {})},
            "search": {"seed": seed, **(search or {})},
            "budget": {"maxDurationSeconds": budget, "maxTrials": 10_000},
            "workers": {"parallelism": workers},
            "output": output,
        },
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    command = [sys.executable, "-m", "kubeautoml.cli.main", "run", "-f", f"{folder}/job.yaml"]
    started = time.monotonic()
    done = subprocess.run([*command, "--workdir", f"{folder}/run", "-o", "json"], stdout=subprocess.PIPE, check=True)
    return {**json.loads(done.stdout), "wall_seconds": time.monotonic() - started}
