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
from kubeautoml.api.trials import MAX_ATTEMPTS, RetireTrial, StudyAttr, StudyLimits, StudyOrders, TrialAttr
from kubeautoml.study.study import read_limits, set_study_attr
from kubeautoml.study.summary import attempt_of, is_preempted


def carry_out_orders(storage: BaseStorage, name: str, orders: StudyOrders) -> None:
    """Bring the study in line with the orders. Call it on every pass, even with empty orders: it also queues the next
    attempt of trials that a worker itself gave up as preempted. One caller at a time.

    Raises:
        StudyError: there is no such study.
    """
    try:
        study = optuna.load_study(storage=storage, study_name=name)
    except KeyError as error:
        raise StudyError(f"study {name} does not exist; create it before giving orders") from error
    if orders.warm_start is not None and study.user_attrs.get(StudyAttr.WARM_START.value) != [*orders.warm_start]:
        set_study_attr(study, StudyAttr.WARM_START, [*orders.warm_start])
    if orders.limits is not None:
        _set_limits(study, orders.limits)
    _retire(study, orders.retire)
    _queue_missing_retries(study)


def _set_limits(study: optuna.Study, limits: StudyLimits) -> None:
    if read_limits(study) != limits:
        set_study_attr(study, StudyAttr.LIMITS, limits)


def _retire(study: optuna.Study, orders: tuple[RetireTrial, ...]) -> None:
    trials = {t.number: t for t in study.get_trials(deepcopy=False)} if orders else {}
    for order in orders:
        trial = trials.get(order.number)
        if trial is not None and not trial.state.is_finished():
            _fail(study, trial, order)


def _fail(study: optuna.Study, trial: FrozenTrial, order: RetireTrial) -> None:
    """End a trial: as preempted if it is to run again, else as failed, with the reason as its error.

    A worker that finishes it at this moment wins: its trial is complete, whatever else is written on it.
    """
    attr, value = (TrialAttr.PREEMPTED, True) if order.requeue else (TrialAttr.ERROR, order.reason)
    try:
        study._storage.set_trial_user_attr(trial._trial_id, attr.value, value)
        study._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
    except UpdateFinishedTrialError:
        return


def _queue_missing_retries(study: optuna.Study) -> None:
    trials = study.get_trials(deepcopy=False)
    retried = {t.user_attrs.get(TrialAttr.RETRY_OF.value) for t in trials}
    for trial in trials:
        if is_preempted(trial) and trial.number not in retried and attempt_of(trial) < MAX_ATTEMPTS:
            study.enqueue_trial(_parameters(trial), user_attrs=_retry_attrs(trial))


def _parameters(trial: FrozenTrial) -> dict[str, Any]:
    """What the trial was to use: queued values that it had not asked for yet, and all that it had."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def _retry_attrs(trial: FrozenTrial) -> dict[str, Any]:
    portfolio = trial.user_attrs.get(TrialAttr.PORTFOLIO.value)
    kept = {} if portfolio is None else {TrialAttr.PORTFOLIO.value: portfolio}
    return {**kept, TrialAttr.RETRY_OF.value: trial.number, TrialAttr.ATTEMPT.value: attempt_of(trial) + 1}
