"""What every step of the finalizer shares, and how it is read: the study, the data, the trials."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass
from statistics import stdev
from typing import TYPE_CHECKING, Any

from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import KubeAutoMLError
from kubeautoml.api.pod import PodContext
from kubeautoml.api.trials import StudyAttr, TrialAttr
from kubeautoml_trainer.activity import Activity

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from kubeautoml.storage import ObjectStore
    from kubeautoml_trainer.data.base import PreparedData
    from kubeautoml_trainer.ensemble.stored import ScoredTrial
    from kubeautoml_trainer.tasks.base import Task

MARGIN_SECONDS = 4.0
"""Kept between the end of explaining and the job's deadline, for writing; measured on two cores, with the disk busy."""


@dataclass(frozen=True)
class Work:
    """What all steps share.

    job_deadline: unix time at which the model is due, None for whenever. is_counted: whether accelerator seconds are what ended the search:
        little was kept of them.
    """

    context: PodContext
    study: optuna.Study
    store: ObjectStore
    data: PreparedData
    task: Task
    scored: list[ScoredTrial]
    job_deadline: float | None
    is_counted: bool = False

    def remaining_seconds(self) -> float:
        """Until writing must begin."""
        return float("inf") if self.job_deadline is None else self.job_deadline - time.time() - MARGIN_SECONDS


class Timer:
    """Seconds by step, for the log."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.laps[step] = round(now - self._last, 2)
        self._last = now


def tell_stage(study: optuna.Study, stage: str) -> None:
    from kubeautoml.study import set_study_attr

    set_study_attr(study, StudyAttr.STAGE, stage)


def load(context: PodContext, study: optuna.Study) -> Work:
    """Study and data."""
    from kubeautoml.storage import open_store
    from kubeautoml.study import read_limits
    from kubeautoml_trainer.data.prepare import prepare
    from kubeautoml_trainer.tasks import task_of

    tell_stage(study, "Loading")
    scored = scored_trials(study)
    if not scored:
        raise _nothing_completed(study)
    data = prepare(context, activity=Activity(lambda words: tell_stage(study, f"Loading, {words}")))
    limits = read_limits(study)
    return Work(
        context=context,
        study=study,
        store=open_store(
            context.job.output.uri,
            context.output_credentials_dir,
            patience_seconds=context.storage_patience_seconds,
        ),
        data=data,
        task=task_of(context.job, data.schema),
        scored=scored,
        job_deadline=None if limits is None else limits.job_deadline,
        is_counted=limits is not None and limits.job_deadline is None and limits.search_deadline is not None,
    )


def scored_trials(study: optuna.Study) -> list[ScoredTrial]:
    """Completed trials with a finite value, by number; without those that another one took the place of. One that came out worse
    than chance has it, because its time was cut short, takes no place.
    """
    from kubeautoml_trainer.ensemble.stored import ScoredTrial

    completed = [
        t
        for t in study.get_trials(deepcopy=False)
        if t.state.name == "COMPLETE" and t.values and abs(t.values[0]) < float("inf")
    ]
    sign = -1.0 if study.direction.name == "MAXIMIZE" else 1.0
    losses = {t.number: sign * t.values[0] for t in completed}
    promotions = {
        int(t.user_attrs[TrialAttr.PROMOTES]): t.number for t in completed if TrialAttr.PROMOTES in t.user_attrs
    }
    instead = {
        promotions[t.number]: t.number
        for t in completed
        if t.number in promotions and losses[promotions[t.number]] <= losses[t.number] + _chance(t)
    }
    promoted = set(instead.values())
    return [
        ScoredTrial(t.number, family_of(t), float(t.values[0]), instead.get(t.number))
        for t in completed
        if t.number not in promoted
    ]


def _chance(trial: FrozenTrial) -> float:
    """By how much the same pipeline may score worse on folds drawn anew: the standard error of its folds, where the pruner was told of
    them, and a thousandth at least. Who was promoted for a lucky draw scores worse the next time.
    """
    folds = [v for v in trial.intermediate_values.values() if math.isfinite(v)]
    error = stdev(folds) / math.sqrt(len(folds)) if len(folds) > 1 else 0.0
    return float(max(error, 1e-3 * abs(trial.values[0])))


def family_of(trial: Any) -> str:
    """The family of a trial, as its worker or its parameters name it."""
    return str(trial.user_attrs.get(TrialAttr.FAMILY) or trial.params.get("family", ""))


def _nothing_completed(study: optuna.Study) -> KubeAutoMLError:
    from kubeautoml_trainer.ensemble.build import FinalizeError

    trials = study.get_trials(deepcopy=False)
    errors = Counter(str(t.user_attrs[TrialAttr.ERROR]) for t in trials if t.user_attrs.get(TrialAttr.ERROR))
    if errors:
        words, times = errors.most_common(1)[0]
        why = f"{times} of {len(trials)} trials ended in: {words[:500]}"
    elif trials:
        why = f"none of {len(trials)} trials ended in time; give spec.budget.maxDurationSeconds more"
    else:
        why = "no trial was started; give spec.budget.maxDurationSeconds more"
    return FinalizeError(f"no trial completed, so there is no model: {why}", reason=Reason.NO_TRIAL_COMPLETED)


def seed_of_trial(work: Work, number: int) -> int:
    """The seed that the worker gave the trial's first fold."""
    from kubeautoml_trainer.search.sampler import origin_of, seed_of

    trial = next(t for t in work.study.get_trials(deepcopy=False) if t.number == number)
    return seed_of(work.context.job.search.seed, origin_of(work.study, trial)) % 2**31
