"""Whole runs of `kubeautoml run` as processes, for tests: a small manifest, a command to start, and what is left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

COMMAND = (sys.executable, "-m", "kubeautoml.cli.main")


def make_rows(count: int = 240, seed: int = 0) -> pd.DataFrame:
    """Two numbers and a category that say whether `bought` is "yes", with some noise."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 80, count),
            "income": rng.normal(50, 15, count).round(1),
            "city": rng.choice(["Bonn", "Kiel", "Ulm"], count),
        }
    )
    score = (frame["age"] - 45) / 15 + (frame["city"] == "Kiel") + rng.normal(0, 0.7, count)
    return frame.assign(bought=np.where(score > 0.3, "yes", "no"))


@dataclass(frozen=True)
class Place:
    """A folder with a manifest, its data, and room for a run."""

    folder: Path

    @property
    def workdir(self) -> Path:
        return self.folder / "work"

    @property
    def manifest(self) -> Path:
        return self.folder / "job.yaml"

    @property
    def data(self) -> Path:
        return self.folder / "buckets" / "lake" / "shop.csv"

    @property
    def command(self) -> list[str]:
        """`kubeautoml run` of the manifest."""
        places = ["--buckets", str(self.folder / "buckets"), "--workdir", str(self.workdir)]
        return [*COMMAND, "run", "-f", str(self.manifest), *places]

    def write(self, frame: pd.DataFrame | None = None, **spec: Any) -> None:
        """The data and the manifest; keywords replace fields of the spec."""
        self.data.parent.mkdir(parents=True, exist_ok=True)
        (make_rows() if frame is None else frame).to_csv(self.data, index=False)
        self.write_manifest(**spec)

    def write_manifest(self, **spec: Any) -> None:
        """The manifest alone."""
        job = {
            "apiVersion": "kubeautoml.dev/v1alpha1",
            "kind": "AutoMLJob",
            "metadata": {"name": "shop"},
            "spec": {
                "task": {"type": "TabularClassification", "target": "bought"},
                "dataset": {"train": {"uri": "s3://lake/shop.csv"}, "split": {"folds": 2}},
                "search": {"families": {"include": ["Dummy", "Linear", "LightGBM"]}},
                "budget": {"maxTrials": 3, "maxDurationSeconds": 60},
                "output": {"uri": "s3://models/shop"},
                # the processes of the tests share the cores; who has both of two waits for the other one's turn
                "workers": {"resources": {"requests": {"cpu": "1"}}},
                **spec,
            },
        }
        self.manifest.write_text(yaml.safe_dump(job))

    def start(self, *flags: str) -> subprocess.Popen[str]:
        """The command as a process of its own group, as a shell starts it."""
        return subprocess.Popen(
            [*self.command, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            start_new_session=True,
        )

    def run(self, *flags: str) -> Ended:
        """The command, to its end."""
        return end_of(self.start(*flags))

    def status(self) -> dict[str, Any]:
        """The status that the command has written last; empty before the first."""
        found = list(self.workdir.glob("jobs/*/*/*.json"))
        return json.loads(found[0].read_text())["status"] if found else {}

    def trials(self) -> list[Any]:
        """All trials of the study."""
        storage, study = self._study()
        return storage.get_all_trials(study)

    def take_a_trial(self) -> None:
        """Begin a trial as a worker does that is killed before it has written its name on it."""
        storage, study = self._study()
        storage.create_new_trial(study)

    def _study(self) -> tuple[Any, int]:
        """The storage, and the number of the only study in it."""
        from kubeautoml.study import open_study_storage

        storage = open_study_storage(f"journal://{self.workdir / 'study.journal'}")
        (study,) = storage.get_all_studies()
        return storage, study._study_id

    def completed(self) -> dict[int, tuple[float, Any]]:
        """Value and time of the completed trials, by number."""
        return {t.number: (t.value, t.datetime_complete) for t in self.trials() if t.state.name == "COMPLETE"}


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def job(self) -> dict[str, Any]:
        """What `-o json` printed."""
        return json.loads(self.out)

    @property
    def last_line(self) -> str:
        return self.err.splitlines()[-1]


def environment() -> dict[str, str]:
    """One thread for numerical libraries, since tests share the machine; no colours."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "120"}


def end_of(process: subprocess.Popen[str], seconds: float = 120) -> Ended:
    """Wait for it; one that does not end is killed and is an error."""
    began = time.monotonic()
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"the command did not end within {seconds:.0f} s\n{out}\n{err}") from None
    return Ended(process.returncode, out, err, time.monotonic() - began)


def wait_until(holds: Callable[[], Any], what: str, process: subprocess.Popen[str], seconds: float = 60) -> Any:
    """What it returns, once that is true; an error when the command ends before, or it takes too long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := holds():
            return found
        if process.poll() is not None:
            raise AssertionError(f"the command ended before {what}: {process.communicate()}")
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    raise AssertionError(f"{what} did not happen within {seconds:.0f} s: {process.communicate()}")


def children_of(pid: int) -> set[int]:
    """Processes that a process has started, and theirs."""
    try:
        found = {int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return found.union(*(children_of(c) for c in found)) if found else found


def is_alive(pid: int) -> bool:
    """Whether a process is there and is no zombie that waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
