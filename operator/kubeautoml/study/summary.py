"""Turns a study of any size into the few numbers that the planner and the status need."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kubeautoml.api.trials import FinishedTrial, RunningTrial, StudyAttr, StudySummary, TrialAttr
from kubeautoml.study.study import parse_attr

_BEST_SHOWN = 10


def load_summary(storage: BaseStorage, name: str) -> StudySummary | None:
    """The study's summary, or None when there is no such study.

    Keep the storage open between calls: it caches finished trials, so that a call reads only what is new.
    """
    try:
        study_id = storage.get_study_id_from_name(name)
    except KeyError:
        return None
    trials = storage.get_all_trials(study_id, deepcopy=False)
    direction = storage.get_study_directions(study_id)[0]
    attrs = storage.get_study_user_attrs(study_id)
    scored = _scored(trials, direction)
    return StudySummary(
        waiting=_count(trials, TrialState.WAITING),
        running=_count(trials, TrialState.RUNNING),
        completed=_count(trials, TrialState.COMPLETE),
        pruned=_count(trials, TrialState.PRUNED),
        failed=sum(t.state is TrialState.FAIL and not is_preempted(t) for t in trials),
        preempted=sum(is_preempted(t) for t in trials),
        running_trials=tuple(_running(t) for t in trials if t.state is TrialState.RUNNING),
        best=tuple(_finished(t) for t in scored[:_BEST_SHOWN]),
        trials_since_best=_finished_after(scored[0], trials) if scored else 0,
        exhausted=bool((attrs.get(StudyAttr.SEARCH.value) or {}).get("exhausted")),
        data=parse_attr(StudyAttr.DATA, attrs.get(StudyAttr.DATA.value)),
        failure=parse_attr(StudyAttr.FAILURE, attrs.get(StudyAttr.FAILURE.value)),
        stage=attrs.get(StudyAttr.STAGE.value),
        result=parse_attr(StudyAttr.RESULT, attrs.get(StudyAttr.RESULT.value)),
        limits=parse_attr(StudyAttr.LIMITS, attrs.get(StudyAttr.LIMITS.value)),
        error=_most_frequent_error(trials),
    )


def is_preempted(trial: FrozenTrial) -> bool:
    """Whether the trial ended because its pod went away, not because of itself."""
    return trial.state is TrialState.FAIL and bool(trial.user_attrs.get(TrialAttr.PREEMPTED.value))


def _most_frequent_error(trials: Iterable[FrozenTrial]) -> str | None:
    errors = Counter(t.user_attrs.get(TrialAttr.ERROR.value) for t in trials if t.state is TrialState.FAIL)
    errors.pop(None, None)
    return str(errors.most_common(1)[0][0]) if errors else None


def _count(trials: Iterable[FrozenTrial], state: TrialState) -> int:
    return sum(t.state is state for t in trials)


def _scored(trials: Iterable[FrozenTrial], direction: StudyDirection) -> list[FrozenTrial]:
    """Completed trials with a finite value, best first; of equals the one that finished first."""
    sign = -1.0 if direction == StudyDirection.MAXIMIZE else 1.0
    finite = [t for t in trials if t.state is TrialState.COMPLETE and t.values and math.isfinite(t.values[0])]
    return sorted(finite, key=lambda t: (sign * t.values[0], _finished_at(t), t.number))


def _finished_after(best: FrozenTrial, trials: Iterable[FrozenTrial]) -> int:
    """Trials completed or pruned after the best one, by time of completion: numbers are given at the start."""
    moment = (_finished_at(best), best.number)
    ended = (t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED))
    return sum((_finished_at(t), t.number) > moment for t in ended)


def _finished_at(trial: FrozenTrial) -> float:
    return trial.datetime_complete.timestamp() if trial.datetime_complete else 0.0


def _running(trial: FrozenTrial) -> RunningTrial:
    return RunningTrial(
        number=trial.number,
        pod_uid=str(trial.user_attrs.get(TrialAttr.POD_UID.value, "")),
        attempt=attempt_of(trial),
        started_at=trial.datetime_start.timestamp() if trial.datetime_start else 0.0,
    )


def attempt_of(trial: FrozenTrial) -> int:
    """Which attempt at its parameters a trial is, from 1."""
    return int(trial.user_attrs.get(TrialAttr.ATTEMPT.value, 1))


def _finished(trial: FrozenTrial) -> FinishedTrial:
    return FinishedTrial(
        number=trial.number,
        value=trial.values[0],
        family=str(trial.user_attrs.get(TrialAttr.FAMILY.value) or trial.params.get("family", "")),
        parameters=dict(trial.params),
        duration_seconds=trial.duration.total_seconds() if trial.duration else None,
    )
