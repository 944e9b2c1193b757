"""Writes what the planner wants into the study: new limits, and the end of trials whose pod is gone.

Every step may be the last one before the operator is killed, and every order may come twice. So each looks before it
acts, and each pass repairs what an earlier one left half done: a preempted trial without its next attempt.
"""

from __future__ import annotations

from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from kubeautoml.api.errors import StudyError
from kubeautoml.api.trials import MAX_ATTEMPTS, Reopen, RetireTrial, StudyAttr, StudyLimits, StudyOrders, TrialAttr
from kubeautoml.study.study import read_limits, set_study_attr
from kubeautoml.study.summary import attempt_of, is_preempted

MODEL_ENDINGS = (StudyAttr.FAILURE, StudyAttr.STAGE, StudyAttr.RESULT)
"""What is written into a study when its model is made, or cannot be."""

ENDINGS = (StudyAttr.LIMITS, StudyAttr.SEARCH, StudyAttr.ACTIVITY, *MODEL_ENDINGS)
"""Likewise when its search ends."""


def carry_out_orders(storage: BaseStorage, name: str, orders: StudyOrders) -> None:
    """Bring the study in line with the orders. Call it on every pass, even with empty orders: it also queues the next
    attempt of trials that a worker itself gave up as preempted. Two callers at once do nothing twice (a database takes one retry
    of a trial; a journal has one operator).

    Raises:
        StudyError: there is no such study.
    """
    try:
        study = optuna.load_study(storage=storage, study_name=name)
    except KeyError as error:
        raise StudyError(f"study {name} does not exist; create it before giving orders") from error
    if orders.warm_start is not None and study.user_attrs.get(StudyAttr.WARM_START.value) != [*orders.warm_start]:
        set_study_attr(study, StudyAttr.WARM_START, [*orders.warm_start])
    if orders.reopen is not None:
        _reopen(study, orders.reopen)
    if orders.limits is not None:
        _set_limits(study, orders.limits)
    for order in orders.retire:
        _retire(study, order)
    for trial in _unretried(study):
        study.enqueue_trial(_parameters(trial), user_attrs=_retry_attrs(trial))


def _set_limits(study: optuna.Study, limits: StudyLimits) -> None:
    if read_limits(study) != limits:
        set_study_attr(study, StudyAttr.LIMITS, limits)


def _reopen(study: optuna.Study, order: Reopen) -> None:
    """Failed trials of the portfolio come first: while anything that ended the job is there, this order comes again."""
    if order.search:
        for trial in _failed_portfolio(study):
            study.enqueue_trial(_parameters(trial), user_attrs=_retry_attrs(trial, attempt=1))
    for attr in ENDINGS if order.search else MODEL_ENDINGS:
        if study.user_attrs.get(attr.value) is not None:
            set_study_attr(study, attr, None)


def _failed_portfolio(study: optuna.Study) -> list[FrozenTrial]:
    """Those that are not queued again yet: whatever failed them, such as a full disk, may be over."""
    trials = study.get_trials(deepcopy=False)
    retried = {t.user_attrs.get(TrialAttr.RETRY_OF.value) for t in trials}
    failed = (t for t in trials if t.state is TrialState.FAIL and not is_preempted(t) and t.number not in retried)
    return [t for t in failed if TrialAttr.PORTFOLIO.value in t.user_attrs]


def _retire(study: optuna.Study, order: RetireTrial) -> None:
    """End a trial: as preempted if it is to run again, else as failed, with the reason as its error.

    A worker that finishes it at this moment wins: its trial is complete, whatever else is written on it.
    """
    storage = study._storage
    attr, value = (TrialAttr.PREEMPTED, True) if order.requeue else (TrialAttr.ERROR, order.reason)
    try:
        trial_id = storage.get_trial_id_from_study_id_trial_number(study._study_id, order.number)
        if not storage.get_trial(trial_id).state.is_finished():
            storage.set_trial_user_attr(trial_id, attr.value, value)
            storage.set_trial_state_values(trial_id, state=TrialState.FAIL)
    except (UpdateFinishedTrialError, KeyError):
        return


def _unretried(study: optuna.Study) -> list[FrozenTrial]:
    """Preempted trials whose next attempt is missing. A database finds them; a journal has all trials in memory anyway."""
    find = getattr(study._storage, "unretried_trials", None)
    if find is not None:
        return list(find(study._study_id))
    trials = study.get_trials(deepcopy=False)
    retried = {t.user_attrs.get(TrialAttr.RETRY_OF.value) for t in trials}
    return [t for t in trials if is_preempted(t) and t.number not in retried and attempt_of(t) < MAX_ATTEMPTS]


def _parameters(trial: FrozenTrial) -> dict[str, Any]:
    """What the trial was to use: queued values that it had not asked for yet, and all that it had."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def _retry_attrs(trial: FrozenTrial, attempt: int | None = None) -> dict[str, Any]:
    lasting = (TrialAttr.PORTFOLIO.value, TrialAttr.PROMOTES.value, TrialAttr.WORK.value)
    kept = {name: trial.user_attrs[name] for name in lasting if name in trial.user_attrs}
    return {**kept, TrialAttr.RETRY_OF.value: trial.number, TrialAttr.ATTEMPT.value: attempt or attempt_of(trial) + 1}
