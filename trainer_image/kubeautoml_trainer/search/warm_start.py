"""Trials of earlier jobs to try first: what was best there may be good here, the more so the more alike the data is."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import optuna
from optuna.trial import FrozenTrial, TrialState

from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import BundleError, DataError, StorageError, StorageUnavailable
from kubeautoml.api.names import ArtifactPaths
from kubeautoml.api.pod import PodContext
from kubeautoml.api.trials import DataFacts, StudyAttr
from kubeautoml.storage import ObjectStore, open_store
from kubeautoml.study import open_study_storage, study_attr
from kubeautoml_trainer.artifacts import read_record
from kubeautoml_trainer.search.plan import Entry
from kubeautoml_trainer.search.space import FAMILY
from kubeautoml_trainer.search.traits import distance

log = logging.getLogger(__name__)

BEST_OF_EACH = 5


def warm_entries(context: PodContext, study: optuna.Study, traits: Mapping[str, float]) -> list[Entry]:
    """The best trials of the jobs named in search.warmStartFrom: of the job whose data is most like this one's first, and of jobs
    that are equally unlike in the order in which they are named.

    The operator has looked up their studies and written their names into this job's; a pod may read those and no others.

    Raises:
        DataError: reason InvalidSearch; one of them has no study with completed trials, or it may not be read.
    """
    jobs = [ref.name for ref in context.job.search.warm_start_from]
    if not jobs:
        return []
    named = study.user_attrs.get(StudyAttr.WARM_START.value, ())
    by_job = {job_of_study(name): str(name) for name in named}
    found = [_best_of(context, job, by_job.get((context.job.namespace, job))) for job in jobs]
    return [entry for _, entries in sorted(found, key=lambda f: distance(f[0], traits)) for entry in entries]


def job_of_study(name: str) -> tuple[str, str]:
    """Namespace and job of a study, by its name."""
    namespace, _, rest = str(name).partition("/")
    return namespace, rest.rpartition("/")[0]


def _best_of(context: PodContext, job: str, name: str | None) -> tuple[Mapping[str, float], list[Entry]]:
    """The traits of a job's data, empty when it was run before they were noted, and its best trials."""
    if name is None:
        raise _invalid(job, f"it has no completed trials in namespace {context.job.namespace}")
    storage = open_study_storage(context.study_url, context.study_token_file, context.study_ca_file)
    try:
        found = optuna.load_study(storage=storage, study_name=name)
    except KeyError as error:
        raise _invalid(job, "its study has been deleted") from error
    trials = found.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    trials = [t for t in trials if t.values and math.isfinite(t.values[0]) and FAMILY in t.params]
    if not trials:
        raise _invalid(job, "it has no completed trials")
    is_up = found.direction.name == "MAXIMIZE"
    best = sorted(trials, key=lambda t: t.values[0], reverse=is_up)[:BEST_OF_EACH]
    store = open_store(
        context.job.output.uri, context.output_credentials_dir, patience_seconds=context.storage_patience_seconds
    )
    paths = ArtifactPaths(context.job.output.uri, context.job.namespace, job, name.rpartition("/")[2])
    facts: DataFacts | None = study_attr(found, StudyAttr.DATA)
    return {} if facts is None else facts.traits, [_entry(t, store, paths) for t in best]


def _invalid(job: str, why: str) -> DataError:
    return DataError(
        f"spec.search.warmStartFrom must name jobs with completed trials, got '{job}': {why}; remove it from the list",
        reason=Reason.INVALID_SEARCH,
    )


def _entry(trial: FrozenTrial, store: ObjectStore, paths: ArtifactPaths) -> Entry:
    """A trial's pipeline: all of it if its record is in the same output location, else what the study knows, which leaves out
    what lies outside the search space.
    """
    family = str(trial.params[FAMILY])
    try:
        return Entry(family, read_record(store, paths, trial.number).parameters)
    except StorageUnavailable:
        raise
    except (StorageError, BundleError):
        log.info("no record of an earlier trial; taking the study's parameters", extra={"trial": trial.number})
    prefix = f"{family}."
    return Entry(family, {k.removeprefix(prefix): v for k, v in trial.params.items() if k.startswith(prefix)})
