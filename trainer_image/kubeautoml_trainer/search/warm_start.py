"""Trials of earlier jobs to try first: what was best there may be good here."""

from __future__ import annotations

import logging
import math

import optuna
from optuna.trial import FrozenTrial, TrialState

from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import BundleError, DataError, StorageError, StudyError
from kubeautoml.api.names import ArtifactPaths
from kubeautoml.api.pod import PodContext
from kubeautoml.storage import ObjectStore, open_store
from kubeautoml.study import open_study_storage
from kubeautoml_trainer.artifacts import read_record
from kubeautoml_trainer.search.plan import Entry
from kubeautoml_trainer.search.space import FAMILY

log = logging.getLogger(__name__)

BEST_OF_EACH = 5


def warm_entries(context: PodContext) -> list[Entry]:
    """The best trials of the jobs named in search.warmStartFrom.

    Raises:
        DataError: reason InvalidSearch; one of them has no study with completed trials, or it may not be read.
    """
    names = [ref.name for ref in context.job.search.warm_start_from]
    return [entry for name in names for entry in _best_of(context, name)]


def _best_of(context: PodContext, job: str) -> list[Entry]:
    try:
        found = _latest_study(context, job)
    except StudyError as error:
        raise _invalid(job, f"its study cannot be read ({error})") from error
    if found is None:
        raise _invalid(job, f"it has no trials in namespace {context.job.namespace}")
    trials = found.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    trials = [t for t in trials if t.values and math.isfinite(t.values[0]) and FAMILY in t.params]
    if not trials:
        raise _invalid(job, "it has no completed trials")
    is_up = found.direction.name == "MAXIMIZE"
    best = sorted(trials, key=lambda t: t.values[0], reverse=is_up)[:BEST_OF_EACH]
    store = open_store(context.job.output.uri, context.output_credentials_dir)
    uid = str(found.study_name).rpartition("/")[2]
    paths = ArtifactPaths(context.job.output.uri, context.job.namespace, job, uid)
    return [_entry(t, store, paths) for t in best]


def _invalid(job: str, why: str) -> DataError:
    return DataError(
        f"spec.search.warmStartFrom must name jobs with completed trials, got '{job}': {why}; remove it from the list",
        reason=Reason.INVALID_SEARCH,
    )


def _latest_study(context: PodContext, job: str) -> optuna.Study | None:
    storage = open_study_storage(context.study_url, context.study_token_file, context.study_ca_file)
    prefix = f"{context.job.namespace}/{job}/"
    summaries = optuna.get_all_study_summaries(storage)
    found = [s for s in summaries if s.study_name.startswith(prefix) and s.study_name != context.job.study_name]
    found = [s for s in found if s.n_trials]
    if not found:
        return None
    latest = max(found, key=lambda s: s.datetime_start.timestamp() if s.datetime_start else 0.0)
    return optuna.load_study(storage=storage, study_name=latest.study_name)


def _entry(trial: FrozenTrial, store: ObjectStore, paths: ArtifactPaths) -> Entry:
    """A trial's pipeline: all of it if its record is in the same output location, else what the study knows, which leaves out
    what lies outside the search space.
    """
    family = str(trial.params[FAMILY])
    try:
        return Entry(family, read_record(store, paths, trial.number).parameters)
    except (StorageError, BundleError):
        log.info("no record of an earlier trial; taking the study's parameters", extra={"trial": trial.number})
    prefix = f"{family}."
    return Entry(family, {k.removeprefix(prefix): v for k, v in trial.params.items() if k.startswith(prefix)})
