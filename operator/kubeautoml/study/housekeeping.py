"""What only the operator asks of a storage: the latest study of a job, deleting one, and keeping its own memory small."""

from __future__ import annotations

from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import TrialState


def latest_study(storage: BaseStorage, prefix: str) -> str | None:
    """The newest study whose name begins like this and that has a completed trial; None when there is none."""
    found = [s for s in storage.get_all_studies() if s.study_name.startswith(prefix)]
    for study in sorted(found, key=lambda s: s._study_id, reverse=True):
        if storage.get_n_trials(study._study_id, TrialState.COMPLETE):
            return str(study.study_name)
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
    cache = getattr(storage, "_cache", None)
    if hasattr(cache, "delete_study_cache"):  # the client of the study server
        cache.delete_study_cache(study_id)
    elif hasattr(storage, "_study_id_and_number_to_trial_id"):  # optuna.storages._CachedStorage, around a database
        with storage._lock:
            study = storage._studies.pop(study_id, None)
            for number in study.trials if study is not None else ():
                trial_id = storage._study_id_and_number_to_trial_id.pop((study_id, number), None)
                storage._trial_id_to_study_id_and_number.pop(trial_id, None)
