"""A whole job in this process: the worker's steps, the finalizer's, and a prediction by the loaded bundle, on data made to be difficult."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from factories import env_of
from kubeautoml.api.metrics import TaskType
from kubeautoml.api.pod import PodContext, PodJob
from kubeautoml.api.trials import Failure, JobResult, StudyAttr, StudyLimits, TrialAttr
from kubeautoml.study import set_study_attr, study_attr
from kubeautoml_trainer import finalize, worker
from kubeautoml_trainer.bundle import Model, load_bundle
from kubeautoml_trainer.data.profile import profile_from_json
from kubeautoml_trainer.finishing import reports
from kubeautoml_trainer.finishing.work import family_of
from kubeautoml_trainer.models import FAMILIES
from kubeautoml_trainer.models.base import DataShape, Family, FitContext
from kubeautoml_trainer.models.space import Parameters, Space
from kubeautoml_trainer.search import plan
from kubeautoml_trainer.search.signals import TerminationGuard

SEARCH_PLAN = plan.search_plan

QUICK: Mapping[str, Parameters] = {
    "LightGBM": {"iterations": 5},
    "CatBoost": {"iterations": 5},
    "XGBoost": {"iterations": 5},
    "ExtraTrees": {"trees": 5},
    "RandomForest": {"trees": 5},
    "GradientBoosting": {"iterations": 5},
    "NeuralNetwork": {"epochs": 2, "width": 16, "layers": 1},
    "TabM": {"epochs": 2, "width": 16, "layers": 1, "members": 2, "bins": 4, "embedding": 4},
    "ExplainableBoosting": {"learning_rate": 0.2, "smoothing_rounds": 0, "interactions": 0.0, "max_bins": 16},
}
"""Work so small that a whole job takes a second or two; other families take the first entry of their portfolio."""


@dataclass(frozen=True)
class Quick:
    """A family with one cheap entry and nothing to search."""

    family: Family
    parameters: Parameters
    interpretable: bool = False

    @property
    def name(self) -> str:
        return self.family.name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.family, name)

    def fits(self, shape: DataShape) -> bool:
        return self.family.fits(shape)

    def space(self, shape: DataShape) -> Space:
        return {}

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        return ((0, self.parameters),)

    def fit(self, train: Any, valid: Any, schema: Any, parameters: Parameters, context: FitContext) -> Any:
        return self.family.fit(train, valid, schema, parameters, context)

    def load(self, folder: Path) -> Any:
        return self.family.load(folder)


def quick_families(changes: Mapping[str, Parameters]) -> tuple[Quick, ...]:
    return tuple(Quick(f, {**QUICK, **changes}.get(f.name, {})) for f in FAMILIES)


@dataclass(frozen=True)
class Ended:
    """How a job ended: with a model, or with a reason. `errors`: of trials, by family."""

    failure: Failure | None = None
    result: JobResult | None = None
    errors: Mapping[str, str] = field(default_factory=dict)
    families: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    model: Model | None = None
    job: PodJob | None = None

    @property
    def why(self) -> str:
        return "" if self.failure is None else self.failure.message


Run = Callable[..., Ended]


def make_env(folder: Path, target: str, is_classes: bool, file: str, **spec: Any) -> dict[str, str]:
    """The environment that a pod of this job has."""
    dataset = {"train": {"uri": f"file://{folder}/{file}"}, "split": {"folds": 2, **spec.pop("split", {})}}
    dataset |= {"columns": spec.pop("columns")} if "columns" in spec else {}
    task = TaskType.TABULAR_CLASSIFICATION if is_classes else TaskType.TABULAR_REGRESSION
    body = {
        "name": "hard",
        "namespace": "team-a",
        "uid": "uid-1",
        "task": {"type": task, "target": target, **spec.pop("task", {})},
        "dataset": dataset,
        "objective": {},
        "constraints": [],
        "search": {"seed": 7},
        "output": {"uri": f"file://{folder}/out"},
    }
    job, study_url = PodJob.model_validate(body | spec), f"journal://{folder}/study.journal"
    return env_of(PodContext(job, study_url, "hard-worker-1", "pod-1", folder / "scratch", threads=1))


def run_job(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    data: pd.DataFrame | bytes,
    target: str = "target",
    *,
    is_classes: bool = True,
    file: str = "train.csv",
    quick: Mapping[str, Parameters] | None = None,
    explained: bool = False,
    **spec: Any,
) -> Ended:
    """Prepare, one trial of every family that fits, finalize, load; a frame is written as a CSV file, bytes as they are.

    explained: with explanations and plots, which take most of the time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file
    if isinstance(data, bytes):
        path.write_bytes(data)
    elif path.suffix == ".parquet":
        data.to_parquet(path)
    else:
        data.to_csv(path, index=False)
    context = PodContext.from_env(make_env(folder, target, is_classes, file, **spec))
    # explanations are bounded in time, of which they take all there is; they have tests of their own
    monkeypatch.setattr(reports, "EXPLAIN_SECONDS", 0.05)
    families = quick_families(quick or {})
    monkeypatch.setattr(plan, "search_plan", lambda job, shape, warm, _: SEARCH_PLAN(job, shape, warm, families))
    study = worker.open_study(context)
    set_study_attr(study, StudyAttr.LIMITS, StudyLimits(100, 100, job_deadline=None if explained else time.time()))
    code = worker._work(context, TerminationGuard())
    failure = study_attr(study, StudyAttr.FAILURE)
    assert (code == 0) == (failure is None)
    if failure is None:
        code = finalize._run(context)
        failure = study_attr(study, StudyAttr.FAILURE)
        assert (code == 0) == (failure is None)
    trials = study.get_trials(deepcopy=False)
    errors = {family_of(t): str(t.user_attrs[TrialAttr.ERROR]) for t in trials if TrialAttr.ERROR in t.user_attrs}
    families = tuple(family_of(t) for t in trials if t.state.name == "COMPLETE")
    profile = folder / context.job.paths.profile.removeprefix(f"file://{folder}/")
    warnings = profile_from_json(profile.read_text()).warnings if profile.exists() else ()
    result = study_attr(study, StudyAttr.RESULT)
    model = None if result is None else load_bundle(result.model_uri, sha256=result.sha256)
    return Ended(failure, result, errors, families, warnings, model, context.job)


def must_predict(ended: Ended, frame: pd.DataFrame) -> np.ndarray:
    """The model's prediction of raw rows, which must be of the target's kind and finite."""
    assert ended.failure is None, ended.why
    assert ended.model is not None and ended.result is not None
    raw = ended.model.raw_prediction(frame)
    assert raw.shape[0] == len(frame) and np.isfinite(raw).all()
    assert all(abs(v) < float("inf") for v in ended.result.metrics.values())
    if ended.model.classes:
        assert np.allclose(raw.sum(axis=1), 1, atol=1e-4)
    return ended.model.predict(frame)
