"""What only the operator asks of a storage: which studies there are, the latest of a job, and deleting one."""

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
