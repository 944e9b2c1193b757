"""A job whose search is over: data on disk, a study, and stored trials, made by the worker's own functions in a second."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bundle.bundle_factories import QUICK, boston, make_pod_job, titanic
from factories import env_of
from kubeautoml.api.metrics import TaskType
from kubeautoml.api.names import ArtifactPaths
from kubeautoml.api.pod import PodContext
from kubeautoml.api.trials import StudyAttr, StudyLimits, TrialAttr
from kubeautoml.storage import ObjectStore, open_store
from kubeautoml.study import set_study_attr
from kubeautoml_trainer.artifacts import write_trial
from kubeautoml_trainer.data.prepare import prepare
from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.search.checkpoint import Checkpoint
from kubeautoml_trainer.search.plan import Entry
from kubeautoml_trainer.search.sampler import seed_of
from kubeautoml_trainer.search.trial import TrialRun, run_trial
from kubeautoml_trainer.tasks import task_for
from kubeautoml_trainer.worker import open_study

ENTRIES = (
    Entry("Dummy", {}),
    Entry("Linear", {}),
    Entry("LightGBM", QUICK["LightGBM"]),
    Entry("LightGBM", {**QUICK["LightGBM"], "extra_trees": True}),
    Entry("ExtraTrees", QUICK["ExtraTrees"]),
)


@dataclass(frozen=True)
class Searched:
    """What a finished search left."""

    context: PodContext
    study: object
    store: ObjectStore
    env: dict[str, str]

    @property
    def paths(self) -> ArtifactPaths:
        return self.context.job.paths

    def text(self, uri: str) -> str:
        return self.store.read(uri).decode()


def make_searched(
    folder: Path,
    target="survived",
    entries=ENTRIES,
    *,
    frame: pd.DataFrame | None = None,
    job_deadline=None,
    variants=("Quality",),
    refit_on="AllRows",
    job_task=None,
    **changes,
):
    """Run `entries` as trials 0, 1, ... of a new study below `folder`."""
    is_classes = target == "survived"
    data = frame if frame is not None else (titanic() if is_classes else boston())
    folder.mkdir(parents=True, exist_ok=True)
    data.to_csv(folder / "train.csv", index=False)
    task = TaskType.TABULAR_CLASSIFICATION if is_classes else TaskType.TABULAR_REGRESSION
    dataset = {"train": {"uri": f"file://{folder}/train.csv"}, "split": {"folds": 2}}
    output = {"uri": f"file://{folder}/out", "variants": list(variants), "refitOn": refit_on}
    wanted = {} if job_task is None else {"job_task": job_task}
    job = make_pod_job(target, task, **({"output": output, "dataset": dataset} | wanted | changes))
    study_url, pod = f"journal://{folder}/study.journal", "passengers-finalize-1"
    context = PodContext(job, study_url, pod, "pod-1", folder / "scratch", threads=1)
    study = open_study(context)
    set_study_attr(study, StudyAttr.LIMITS, StudyLimits(len(entries), 10, job_deadline=job_deadline))
    store = open_store(job.output.uri)
    if entries:
        _run_trials(context, study, store, entries)
    return Searched(context, study, store, env_of(context))


def _run_trials(context, study, store, entries) -> None:
    job = context.job
    data = prepare(context)
    task = task_for(job.task.type, data.schema)
    for entry in entries:
        trial = study.ask()
        seed = seed_of(job.search.seed, trial.number) % 2**31
        checkpoint = Checkpoint(store, job.paths, trial.number, entry, context.scratch_dir, is_retry=False)
        run = TrialRun(
            data, task, job.metric, 1, seed, lambda fold, value: None, lambda *folds_left: math.inf, checkpoint
        )
        outcome = run_trial(trial.number, 1, entry, family_named(entry.family), run)
        write_trial(store, job.paths, outcome.record, outcome.predictions, outcome.models)
        trial.set_user_attr(TrialAttr.FAMILY.value, entry.family)
        study.tell(trial, outcome.record.value)


def soon(seconds: float) -> float:
    """A deadline, Unix time."""
    return time.time() + seconds
