"""Trials of earlier jobs to try first: what was best there may be good here."""

from __future__ import annotations

from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import DataError
from kubeautoml.api.pod import PodContext
from kubeautoml.study import open_study_storage
from kubeautoml_trainer.search.plan import Entry

BEST_OF_EACH = 5


def warm_entries(context: PodContext) -> list[Entry]:
    """The best trials of the jobs named in search.warmStartFrom.

    Raises:
        DataError: reason InvalidSearch; one of them has no study with completed trials.
    """
    names = [ref.name for ref in context.job.search.warm_start_from]
    return [entry for name in names for entry in _best_of(context, name)]


def _best_of(context: PodContext, job: str) -> list[Entry]:
    import optuna
    from optuna.trial import TrialState

    storage = open_study_storage(context.study_url, context.study_token_file, context.study_ca_file)
    prefix = f"{context.job.namespace}/{job}/"
    found = [s for s in optuna.get_all_study_summaries(storage) if s.study_name.startswith(prefix) and s.n_trials]
    if not found:
        raise DataError(
            f"spec.search.warmStartFrom: AutoMLJob '{job}' has no trials in namespace {context.job.namespace}; remove it from the list",
            reason=Reason.INVALID_SEARCH,
        )
    latest = max(found, key=lambda s: s.datetime_start.timestamp() if s.datetime_start else 0.0)
    study = optuna.load_study(storage=storage, study_name=latest.study_name)
    trials = [t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if t.values]
    is_up = study.direction.name == "MAXIMIZE"
    best = sorted(trials, key=lambda t: t.values[0], reverse=is_up)[:BEST_OF_EACH]
    return [_entry(t.params) for t in best if "family" in t.params]


def _entry(params: dict[str, object]) -> Entry:
    family = str(params["family"])
    prefix = f"{family}."
    return Entry(family, {k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)})  # type: ignore[misc]
