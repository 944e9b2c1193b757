"""Families that cost nothing, small data, and a worker's loop on a journal: what every test of the search needs.

Run as a program (`python fakes.py CONTEXT`), it is one worker with these families, for tests that kill it.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd

from kubeautoml.api.pod import PodContext, PodJob
from kubeautoml.api.trials import StudyAttr, StudyLimits
from kubeautoml.storage import open_store
from kubeautoml.study import create_study, open_study_storage, set_study_attr
from kubeautoml_trainer.data.base import PreparedData, Rows, Schema
from kubeautoml_trainer.data.prepare import prepare_frames
from kubeautoml_trainer.models.base import DataShape, FitContext
from kubeautoml_trainer.models.space import Choice, Float, Int, Parameters, Space
from kubeautoml_trainer.search.loop import SearchLoop
from kubeautoml_trainer.search.plan import data_shape, search_plan
from kubeautoml_trainer.search.signals import TerminationGuard

SPACE: Space = {"rate": Float(0.01, 1.0, log=True), "size": Int(1, 9), "kind": Choice(("a", "b"))}
PORTFOLIO = ((0, {"rate": 0.1}), (2, {"rate": 0.5, "size": 3, "hidden": 7}))

OnFit = Callable[[Parameters, FitContext], None]


@dataclass
class FakePipeline:
    """Predicts one number."""

    value: float
    outputs: int
    family: str = "Fake"
    parameters: Parameters = field(default_factory=dict)
    best_iteration: int | None = None

    def set_threads(self, threads: int) -> None:
        pass

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return np.full((len(frame), self.outputs), self.value, dtype=np.float32)

    def save(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.json").write_text(json.dumps(self.value))


@dataclass
class FakeFamily:
    """Predicts its parameter `rate` whatever the rows; `on_fit` may fail, sleep or count."""

    name: str = "Fake"
    interpretable: bool = False
    search_space: Space = field(default_factory=lambda: SPACE)
    entries: tuple[tuple[int, Parameters], ...] = PORTFOLIO
    on_fit: OnFit = lambda parameters, context: None

    def fits(self, shape: DataShape) -> bool:
        return True

    def space(self, shape: DataShape) -> Space:
        return self.search_space

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        return self.entries

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FakePipeline:
        self.on_fit(parameters, context)
        return FakePipeline(float(parameters.get("rate", 0.0)), context.task.outputs, self.name, parameters)

    def load(self, folder: Path) -> Any:
        raise NotImplementedError


def make_frame(rows: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"x": rng.normal(size=rows), "y": rng.uniform(size=rows)})


def make_pod_job(folder: Path, **search: Any) -> PodJob:
    return PodJob.model_validate(
        {
            "name": "churn",
            "namespace": "team-a",
            "uid": "uid-1",
            "task": {"type": "TabularRegression", "target": "y"},
            "dataset": {"train": {"uri": f"file://{folder}/train.csv"}, "split": {"folds": 3}},
            "objective": {},
            "constraints": [],
            "search": search,
            "output": {"uri": f"file://{folder}/out"},
        }
    )


def make_context(folder: Path, pod: str = "pod-1", study_url: str | None = None, **search: Any) -> PodContext:
    url = study_url or f"journal://{folder}/study.log"
    return PodContext(make_pod_job(folder, **search), url, pod, f"{pod}-uid", folder / "scratch", threads=1)


def make_data(job: PodJob) -> PreparedData:
    return prepare_frames(make_frame(), None, job)[0]


def make_limits(**changes: Any) -> StudyLimits:
    return StudyLimits(**{"max_trials": 10, "max_failed_trials": 5, **changes})


def states(study: optuna.Study) -> list[str]:
    """Of all trials, in their order."""
    return [t.state.name for t in study.get_trials(deepcopy=False)]


def open_job_study(context: PodContext, limits: StudyLimits | None = None) -> optuna.Study:
    """The job's study; limits are written when given."""
    job = context.job
    study = create_study(open_study_storage(context.study_url), job.study_name, job.direction)
    if limits is not None:
        set_study_attr(study, StudyAttr.LIMITS, limits)
    return study


def make_loop(context: PodContext, families: tuple[FakeFamily, ...], study: optuna.Study | None = None) -> SearchLoop:
    data = make_data(context.job)
    plan = search_plan(context.job, data_shape(data, context.job), families=families)  # type: ignore[arg-type]
    store = open_store(context.job.output.uri)
    return SearchLoop(context, data, plan, study or open_job_study(context), store, TerminationGuard())


def main(folder: str, pod: str, seconds_per_fit: float) -> int:
    """One worker; the first fit of every trial says so on stdout."""

    def on_fit(parameters: Parameters, context: FitContext) -> None:
        print("fit", flush=True)
        time.sleep(seconds_per_fit)

    from kubeautoml_trainer.search.signals import Terminated

    loop = make_loop(make_context(Path(folder), pod), (FakeFamily(on_fit=on_fit),))
    loop.guard.install()
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    try:
        loop.run()
    except Terminated:
        return 143
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
