"""Small real models: data prepared, families fitted, bundles written and loaded as the trainer does it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from factories import make_job
from kubeautoml.api.metrics import TaskType
from kubeautoml.api.objective import ModelVariant
from kubeautoml.api.pod import PodJob
from kubeautoml_trainer.bundle import Model, VariantFiles, load_bundle, save_member, write_bundle
from kubeautoml_trainer.bundle.manifest import Lineage
from kubeautoml_trainer.data.base import Schema
from kubeautoml_trainer.data.prepare import prepare_frames
from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.models.base import Family, FitContext
from kubeautoml_trainer.tasks import task_for

CLS, REG = TaskType.TABULAR_CLASSIFICATION, TaskType.TABULAR_REGRESSION
QUICK: dict[str, dict[str, Any]] = {
    "LightGBM": {"iterations": 30, "learning_rate": 0.2},
    "CatBoost": {"iterations": 30, "learning_rate": 0.2},
    "ExtraTrees": {"trees": 20},
    "NeuralNetwork": {"epochs": 10, "width": 32},
    "TabM": {"epochs": 5, "width": 16, "members": 2, "layers": 1, "bins": 4},
    "ExplainableBoosting": {"learning_rate": 0.2, "smoothing_rounds": 2, "interactions": 0.2},
}


@dataclass(frozen=True)
class Trained:
    """A bundle in `folder`, the model loaded from it, and what the trainer itself predicts for the hold-out rows."""

    folder: Path
    sha256: str
    model: Model
    raw: pd.DataFrame
    """Hold-out rows as they were in the file."""
    expected: pd.DataFrame
    """Predictions of the fitted pipelines, before they were saved, for the rows that the trainer typed itself."""

    @property
    def schema(self) -> Schema:
        return self.model.schema

    @property
    def records(self) -> list[dict[str, Any]]:
        """The hold-out rows as a client sends them."""
        return records_of(self.raw.drop(columns=self.schema.target))


def records_of(raw: pd.DataFrame) -> list[dict[str, Any]]:
    """Plain JSON values: null where something is missing, dates as ISO text, numbers with all their digits."""
    whole = raw.astype(object).where(raw.notna(), None)
    return json.loads(json.dumps(whole.to_dict("records"), default=lambda v: v.isoformat()))


def train(
    folder: Path,
    raw: pd.DataFrame,
    target: str,
    families: Sequence[str | tuple[Family, dict[str, Any]]],
    *,
    types: Mapping[str, str] | None = None,
) -> Trained:
    """One member a family, by name or as one with its parameters, two pipelines each, equal weights."""
    kind = REG if pd.api.types.is_float_dtype(raw[target]) else CLS
    spec = {"train": {"uri": "file:///data.csv"}, "columns": {"types": dict(types or {})}}
    job = PodJob.of(make_job(task={"type": kind.value, "target": target}, dataset=spec))
    data, assignment = prepare_frames(raw, None, job)
    context = FitContext(task_for(kind, data.schema), job.metric, 1, 1, time.monotonic() + 60)
    chosen = [(family_named(f), QUICK.get(f, {})) if isinstance(f, str) else f for f in families]
    fitted = [
        [
            family.fit(data.train.take(data.fold != k), data.train.take(data.fold == k), data.schema, told, context)
            for k in (0, 1)
        ]
        for family, told in chosen
    ]
    means = [sum(p.predict(data.holdout.frame).astype(float) for p in pipelines) / 2 for pipelines in fitted]
    members = [
        save_member(p, folder / "fitted" / str(i), trial=i, weight=1 / len(fitted)) for i, p in enumerate(fitted)
    ]
    digest = write_bundle(
        folder / "model",
        schema=data.schema,
        task_type=kind,
        metric=job.metric,
        variants=[VariantFiles(ModelVariant.QUALITY, members, {"Accuracy": 0.9})],
        lineage=Lineage(
            job_name="churn", job_uid="u", namespace="n", data_sha256="a" * 64, trials=len(members), seed=1
        ),
        card={"name": "churn", "metrics": {"Accuracy": 0.9}},
        created_at="2026-01-05T12:00:00Z",
    )
    return Trained(
        folder / "model",
        digest,
        load_bundle(folder / "model"),
        raw[assignment.holdout].reset_index(drop=True),
        context.task.output_frame(np.asarray(sum(means) / len(means), dtype=np.float32)),
    )


def every_type(classes: bool, rows: int = 120) -> pd.DataFrame:
    """A made table: number, whole number, category, boolean, datetime and text, with gaps in all."""
    rng = np.random.default_rng(3)
    age = rng.integers(18, 90, rows)
    plan = rng.choice(["basic", "pro", "O'Neil & <co>"], rows)
    signal = age / 30 + 2.0 * (plan == "pro") + rng.normal(0, 0.3, rows)
    raw = pd.DataFrame(
        {
            "age": age,
            "balance": rng.normal(1000, 300, rows).round(2),
            "plan": plan,
            "active": rng.random(rows) < 0.5,
            "since": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 2000, rows), unit="D"),
            "note": [f"called about the {w} {i}, was kind" for i, w in enumerate(rng.choice(["bill", "phone"], rows))],
            "target": np.where(signal > np.median(signal), "yes", "no") if classes else signal,
        }
    )
    for i, name in enumerate(("balance", "plan", "active", "since", "note")):
        raw[name] = raw[name].astype(object).where(np.arange(rows) % 17 != i, None)
    return raw


TYPES = {
    "age": "Number", "balance": "Number", "plan": "Category", "active": "Boolean", "since": "Datetime", "note": "Text"
}  # fmt: skip


def train_every_type(folder: Path, families: Sequence[str], *, classes: bool) -> Trained:
    return train(folder, every_type(classes), "target", families, types=TYPES)


def real_table(name: str, rows: int = 150) -> tuple[pd.DataFrame, str]:
    """Rows of one of scikit-learn's own data sets, and the target's name."""
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")(as_frame=True)
    raw = bunch.frame.sample(rows, random_state=0).reset_index(drop=True)
    if "target_names" in bunch:
        raw["target"] = raw["target"].map(dict(enumerate(map(str, bunch.target_names))))
    return raw, "target"
