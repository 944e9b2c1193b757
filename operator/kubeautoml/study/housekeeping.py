"""What only the operator asks of a storage: the latest study of a job, deleting one, and keeping its own memory small."""

from __future__ import annotations

from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import TrialState


def list_studies(storage: Any, prefix: str = "") -> list[str]:
    """Names of the studies that begin like this, the oldest first."""
    ask = getattr(storage, "list_studies", None)
    if ask is not None:
        return list(ask(prefix))
    studies = sorted(storage.get_all_studies(), key=lambda s: s._study_id)
    return [str(s.study_name) for s in studies if s.study_name.startswith(prefix)]


def latest_study(storage: Any, prefix: str) -> str | None:
    """The newest study whose name begins like this and that has a completed trial; None when there is none."""
    ask = getattr(storage, "latest_study", None)
    if ask is not None:
        name: str | None = ask(prefix)
        return name
    for name in reversed(list_studies(storage, prefix)):
        if storage.get_n_trials(storage.get_study_id_from_name(name), TrialState.COMPLETE):
            return name
    return None


def delete_study(storage: BaseStorage, name: str) -> bool:
    """Delete a study with its trials; False when there was none."""
    try:
        storage.delete_study(storage.get_study_id_from_name(name))
    except KeyError:
        return False
    return True


def forget_study(storage: Any, name: str) -> None:
    """Drop what the storage keeps of a study in this process's memory: its finished trials, a few kB each.

    Nothing is lost: the next call reads them again. A storage that keeps nothing, or everything (a journal), is left alone.
    """
    try:
        study_id = storage.get_study_id_from_name(name)
    except KeyError:
        return
    cache: Any = getattr(storage, "_cache", None)
    if hasattr(cache, "delete_study_cache"):  # the client of the study server
        cache.delete_study_cache(study_id)
    elif hasattr(storage, "_study_id_and_number_to_trial_id"):  # optuna.storages._CachedStorage, around a database
        with storage._lock:
            study = storage._studies.pop(study_id, None)
            for number in study.trials if study is not None else ():
                trial_id = storage._study_id_and_number_to_trial_id.pop((study_id, number), None)
                storage._trial_id_to_study_id_and_number.pop(trial_id, None)
