"""Turns a study of any size into the few numbers that the planner and the status need."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kubeautoml.api.trials import FinishedTrial, RunningTrial, StudyAttr, StudySummary, TrialAttr
from kubeautoml.study.study import parse_attr

BEST_SHOWN = 10


@dataclass(frozen=True)
class StudyFacts:
    """What a storage counts, by itself (`count_study`) or through its trials; the summary is made of it."""

    counts: Mapping[str, int]
    """Trials by the name of their state."""
    preempted: int
    """Those of the failed ones that ended because their pod went away."""
    running: tuple[RunningTrial, ...]
    best: tuple[FinishedTrial, ...]
    trials_since_best: int
    error: str | None
    attrs: Mapping[str, Any] = field(default_factory=dict)


def load_summary(storage: BaseStorage, name: str) -> StudySummary | None:
    """The study's summary, or None when there is no such study.

    A database counts for itself, and the study server answers with one call. A journal has its trials in memory anyway.
    """
    count = getattr(storage, "count_study", None)
    facts = count(name) if count is not None else _count(storage, name)
    return _summary(facts) if facts is not None else None


def _count(storage: BaseStorage, name: str) -> StudyFacts | None:
    try:
        study_id = storage.get_study_id_from_name(name)
    except KeyError:
        return None
    trials = storage.get_all_trials(study_id, deepcopy=False)
    return facts_of(trials, storage.get_study_directions(study_id)[0], storage.get_study_user_attrs(study_id))


def facts_of(trials: Iterable[FrozenTrial], direction: StudyDirection, attrs: Mapping[str, Any]) -> StudyFacts:
    """Count trials one by one, in the order of their numbers."""
    trials = list(trials)
    scored = _scored(trials, direction)
    return StudyFacts(
        counts=Counter(t.state.name for t in trials),
        preempted=sum(is_preempted(t) for t in trials),
        running=tuple(running(t) for t in trials if t.state is TrialState.RUNNING),
        best=tuple(finished(t) for t in scored[:BEST_SHOWN]),
        trials_since_best=_finished_after(scored[0], trials) if scored else 0,
        error=_most_frequent_error(trials),
        attrs=attrs,
    )


def _summary(facts: StudyFacts) -> StudySummary:
    counts, attrs = facts.counts, facts.attrs
    return StudySummary(
        waiting=counts.get("WAITING", 0),
        running=counts.get("RUNNING", 0),
        completed=counts.get("COMPLETE", 0),
        pruned=counts.get("PRUNED", 0),
        failed=counts.get("FAIL", 0) - facts.preempted,
        preempted=facts.preempted,
        running_trials=facts.running,
        best=facts.best,
        trials_since_best=facts.trials_since_best,
        exhausted=bool((attrs.get(StudyAttr.SEARCH.value) or {}).get("exhausted")),
        data=parse_attr(StudyAttr.DATA, attrs.get(StudyAttr.DATA.value)),
        failure=parse_attr(StudyAttr.FAILURE, attrs.get(StudyAttr.FAILURE.value)),
        activity=str(attrs.get(StudyAttr.ACTIVITY.value) or ""),
        stage=attrs.get(StudyAttr.STAGE.value),
        result=parse_attr(StudyAttr.RESULT, attrs.get(StudyAttr.RESULT.value)),
        limits=parse_attr(StudyAttr.LIMITS, attrs.get(StudyAttr.LIMITS.value)),
        error=facts.error,
    )


def is_preempted(trial: FrozenTrial) -> bool:
    """Whether the trial ended because its pod went away, not because of itself."""
    return trial.state is TrialState.FAIL and bool(trial.user_attrs.get(TrialAttr.PREEMPTED.value))


def _most_frequent_error(trials: Iterable[FrozenTrial]) -> str | None:
    errors = Counter(t.user_attrs.get(TrialAttr.ERROR.value) for t in trials if t.state is TrialState.FAIL)
    errors.pop(None, None)
    return str(errors.most_common(1)[0][0]) if errors else None


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


def running(trial: FrozenTrial) -> RunningTrial:
    """A running trial as the planner sees it."""
    return RunningTrial(
        number=trial.number,
        pod_uid=str(trial.user_attrs.get(TrialAttr.POD_UID.value, "")),
        attempt=attempt_of(trial),
        started_at=trial.datetime_start.timestamp() if trial.datetime_start else 0.0,
        doing=str(trial.user_attrs.get(TrialAttr.DOING.value, "")),
    )


def attempt_of(trial: FrozenTrial) -> int:
    """Which attempt at its parameters a trial is, from 1."""
    return int(trial.user_attrs.get(TrialAttr.ATTEMPT.value, 1))


def finished(trial: FrozenTrial) -> FinishedTrial:
    """A scored trial as the leaderboard shows it."""
    return FinishedTrial(
        number=trial.number,
        value=trial.values[0],
        family=str(trial.user_attrs.get(TrialAttr.FAMILY.value) or trial.params.get("family", "")),
        parameters=dict(trial.params),
        duration_seconds=trial.duration.total_seconds() if trial.duration else None,
    )
