"""What holds for a study under every URL: journal, SQLite, PostgreSQL, and the study server."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from kubeautoml.api.errors import StudyError
from kubeautoml.api.trials import (
    DataFacts,
    Failure,
    JobResult,
    Reopen,
    RetireTrial,
    RunningTrial,
    StudyAttr,
    StudyLimits,
    StudyOrders,
    StudySummary,
)
from kubeautoml.study import (
    carry_out_orders,
    create_study,
    is_fenced,
    load_summary,
    open_study_storage,
    read_limits,
    set_study_attr,
    study_attr,
)

LIMITS = StudyLimits(max_trials=50, max_failed_trials=5, search_deadline=1e9, target_value=0.9, stop=False)
RESULT = JobResult("s3://b/model", "ab", 10, {"RocAuc": 0.9}, ("0", "3"), 12, "cd", 1.5e9, "0.1.0")

WORKER = """
import sys
from kubeautoml.study import create_study, open_study_storage
url, name = sys.argv[1:]
study = create_study(open_study_storage(url), name, "maximize")
for _ in range(8):
    trial = study.ask()
    study.tell(trial, trial.suggest_float("x", 0, 1))
"""


def retire(number: int, attempt: int = 1, requeue: bool = True) -> StudyOrders:
    return StudyOrders(retire=(RetireTrial(number, attempt, "Preempted", requeue),))


def retries_of(study: optuna.Study, number: int) -> list[optuna.trial.FrozenTrial]:
    return [t for t in study.get_trials() if t.user_attrs.get("retry_of") == number]


def test_creating_a_study_twice_gives_the_same_one(storage: BaseStorage, name: str):
    """Whoever comes second loads what the first one made."""
    first = create_study(storage, name, "maximize")

    second = create_study(storage, name, "maximize")

    assert second._study_id == first._study_id


def test_a_study_that_goes_the_other_way_is_refused(storage: BaseStorage, name: str):
    """A study keeps its direction; the message says which it has."""
    create_study(storage, name, "maximize")

    with pytest.raises(StudyError, match="is to maximize, not to minimize"):
        create_study(storage, name, "minimize")


def test_two_processes_at_once_share_one_study(study_url: str, name: str):
    """Neither creating, nor asking, nor claiming a queued trial is done twice."""
    command = [sys.executable, "-c", WORKER, study_url, name]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [worker.communicate(timeout=120)[1].decode() for worker in workers]

    assert [worker.returncode for worker in workers] == [0, 0], errors
    storage = open_study_storage(study_url)
    trials = optuna.load_study(storage=storage, study_name=name).get_trials()
    assert [t.number for t in trials] == list(range(16))
    assert {t.state for t in trials} == {TrialState.COMPLETE}


def test_a_queued_trial_is_claimed_once(study_url: str, name: str):
    """Two workers that see the same waiting trials run each of them once."""
    study = create_study(open_study_storage(study_url), name, "maximize")
    for number in range(6):
        study.enqueue_trial({"x": number / 10}, user_attrs={"portfolio": number})
    command = [sys.executable, "-c", WORKER, study_url, name]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [worker.communicate(timeout=120)[1].decode() for worker in workers]

    assert [worker.returncode for worker in workers] == [0, 0], errors
    trials = optuna.load_study(storage=open_study_storage(study_url), study_name=name).get_trials()
    assert len(trials) == 16
    assert [t.params["x"] for t in trials if "portfolio" in t.user_attrs] == [n / 10 for n in range(6)]


@pytest.mark.parametrize(
    ("attr", "value"),
    [
        (StudyAttr.LIMITS, LIMITS),
        (StudyAttr.DATA, DataFacts(891, 12, 179, 5, 2, "ef", ("column cabin is mostly empty",))),
        (StudyAttr.FAILURE, Failure("data", "TargetNotFound", "no column churned")),
        (StudyAttr.RESULT, RESULT),
        (StudyAttr.STAGE, "Ensembling"),
        (StudyAttr.SEARCH, {"exhausted": True}),
    ],
)
def test_an_attribute_comes_back_as_it_was_written(storage: BaseStorage, name: str, attr: StudyAttr, value: object):
    """Dataclasses cross the study as JSON, tuples included."""
    study = create_study(storage, name, "maximize")

    set_study_attr(study, attr, value)

    assert study_attr(create_study(storage, name, "maximize"), attr) == value


def test_limits_are_none_until_written(storage: BaseStorage, name: str):
    """A worker can tell that the operator has not spoken yet."""
    study = create_study(storage, name, "maximize")

    before = read_limits(study)
    carry_out_orders(storage, name, StudyOrders(limits=LIMITS))

    assert (before, read_limits(study)) == (None, LIMITS)


def test_unchanged_limits_are_not_written_again(storage: BaseStorage, name: str, monkeypatch: pytest.MonkeyPatch):
    """A pass that changes nothing writes nothing."""
    create_study(storage, name, "maximize")
    carry_out_orders(storage, name, StudyOrders(limits=LIMITS))
    written: list[object] = []
    monkeypatch.setattr(storage, "set_study_user_attr", lambda *args: written.append(args))

    carry_out_orders(storage, name, StudyOrders(limits=LIMITS))
    carry_out_orders(storage, name, StudyOrders(limits=replace(LIMITS, stop=True)))

    assert len(written) == 1


def test_the_summary_of_no_study_is_none(storage: BaseStorage, name: str):
    """The planner can tell "not there yet" from "empty"."""
    before = load_summary(storage, name)
    create_study(storage, name, "maximize")

    assert (before, load_summary(storage, name)) == (None, StudySummary())


def test_the_summary_counts_every_state(storage: BaseStorage, name: str):
    """Waiting, running, completed, pruned, failed and preempted are told apart; the best come first."""
    study = create_study(storage, name, "maximize")
    for value in (0.5, 0.9, 0.7):
        trial = study.ask()
        trial.set_user_attr("family", "LightGBM")
        trial.suggest_float("rate", 0.01, 1.0, log=True)
        study.tell(trial, value)
    study.tell(study.ask(), state=TrialState.FAIL)
    pruned = study.ask()
    pruned.report(0.1, 0)
    study.tell(pruned, state=TrialState.PRUNED)
    running = study.ask()
    running.set_user_attr("pod_uid", "uid-1")
    gone = study.ask()
    carry_out_orders(storage, name, retire(gone.number))

    seen = load_summary(storage, name)

    assert seen is not None
    counts = (seen.waiting, seen.running, seen.completed, seen.pruned, seen.failed, seen.preempted)
    assert counts == (1, 1, 3, 1, 1, 1)
    assert [(t.number, t.value, t.family) for t in seen.best] == [
        (1, 0.9, "LightGBM"),
        (2, 0.7, "LightGBM"),
        (0, 0.5, "LightGBM"),
    ]
    assert seen.best[0].parameters == study.trials[1].params
    assert seen.trials_since_best == 2
    assert [(t.number, t.pod_uid, t.attempt) for t in seen.running_trials] == [(running.number, "uid-1", 1)]
    assert seen.spent == 6


def test_the_smallest_value_is_best_when_minimizing(storage: BaseStorage, name: str):
    """Direction decides; infinite values are never best."""
    study = create_study(storage, name, "minimize")
    for value in (3.0, float("-inf"), 1.0, float("inf"), 2.0):
        study.tell(study.ask(), value)

    seen = load_summary(storage, name)

    assert seen is not None
    assert [t.value for t in seen.best] == [1.0, 2.0, 3.0]


def test_trials_since_the_best_follow_the_order_of_completion(storage: BaseStorage, name: str):
    """A trial that began before the best one and ended after it counts as later."""
    study = create_study(storage, name, "maximize")
    early = study.ask()
    study.tell(study.ask(), 0.9)
    study.tell(early, 0.1)

    seen = load_summary(storage, name)

    assert seen is not None
    assert (seen.best[0].number, seen.trials_since_best) == (1, 1)


def test_a_retired_trial_is_queued_once_as_its_next_attempt(storage: BaseStorage, name: str):
    """The same order twice gives one retry with the same parameters, also those queued but not yet asked for."""
    study = create_study(storage, name, "maximize")
    study.enqueue_trial({"x": 0.25, "y": 0.5}, user_attrs={"portfolio": 3})
    trial = study.ask()
    trial.suggest_float("x", 0, 1)

    for _ in range(3):
        carry_out_orders(storage, name, retire(trial.number))

    (retry,) = retries_of(study, trial.number)
    assert retry.state is TrialState.WAITING
    assert retry.user_attrs == {"retry_of": 0, "attempt": 2, "portfolio": 3}
    again = study.ask()
    assert (again.number, again.suggest_float("x", 0, 1), again.suggest_float("y", 0, 1)) == (1, 0.25, 0.5)
    seen = load_summary(storage, name)
    assert seen is not None
    assert [replace(t, started_at=0.0) for t in seen.running_trials] == [RunningTrial(1, "", 2, 0.0)]


def test_a_trial_that_finished_meanwhile_is_not_queued_again(storage: BaseStorage, name: str):
    """The worker was quicker than the order: its result counts."""
    study = create_study(storage, name, "maximize")
    trial = study.ask()
    study.tell(trial, 0.5)

    carry_out_orders(storage, name, retire(trial.number))

    seen = load_summary(storage, name)
    assert seen is not None
    assert (seen.completed, seen.preempted, seen.waiting) == (1, 0, 0)


def test_a_trial_that_finishes_between_mark_and_end_is_not_queued_again(
    storage: BaseStorage, name: str, monkeypatch: pytest.MonkeyPatch
):
    """Completed with the mark of preemption on it, it is still completed."""
    study = create_study(storage, name, "maximize")
    trial = study.ask()
    set_attr = storage.set_trial_user_attr

    def set_attr_and_lose_the_race(trial_id: int, key: str, value: object) -> None:
        set_attr(trial_id, key, value)
        study.tell(trial.number, 0.5)

    monkeypatch.setattr(storage, "set_trial_user_attr", set_attr_and_lose_the_race)
    carry_out_orders(storage, name, retire(trial.number))

    seen = load_summary(storage, name)
    assert seen is not None
    assert (seen.completed, seen.preempted, seen.waiting) == (1, 0, 0)


@pytest.mark.parametrize("last_step", ["set_trial_user_attr", "set_trial_state_values"])
def test_an_operator_killed_between_two_steps_loses_no_retry(
    storage: BaseStorage, name: str, monkeypatch: pytest.MonkeyPatch, last_step: str
):
    """The next pass finishes what the killed one began, and no pass after it does more."""
    study = create_study(storage, name, "maximize")
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    step = getattr(storage, last_step)

    def step_and_die(*args: object, **kwargs: object) -> None:
        step(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(storage, last_step, step_and_die)
        carry_out_orders(storage, name, retire(trial.number))
    still_running = study.trials[0].state is TrialState.RUNNING
    for _ in range(2):
        carry_out_orders(storage, name, retire(trial.number) if still_running else StudyOrders())

    (retry,) = retries_of(study, trial.number)
    assert retry.system_attrs["fixed_params"] == trial.params


def test_a_trial_that_its_worker_gave_up_is_queued_again(storage: BaseStorage, name: str):
    """A worker that is told to leave marks its trial; the next pass queues it, orders or not."""
    study = create_study(storage, name, "maximize")
    trial = study.ask()
    trial.set_user_attr("preempted", True)
    study.tell(trial, state=TrialState.FAIL)

    carry_out_orders(storage, name, StudyOrders())

    assert len(retries_of(study, trial.number)) == 1


def test_the_third_attempt_is_the_last(storage: BaseStorage, name: str):
    """Parameters whose pods always go away are not tried for ever."""
    study = create_study(storage, name, "maximize")
    for attempt in (1, 2, 3):
        trial = study.ask()
        assert trial.user_attrs.get("attempt", 1) == attempt
        carry_out_orders(storage, name, retire(trial.number, attempt))

    seen = load_summary(storage, name)

    assert seen is not None
    assert (seen.preempted, seen.waiting) == (3, 0)


def test_a_trial_retired_for_good_counts_as_failed(storage: BaseStorage, name: str):
    """Without a retry the loss is a finding about these parameters, kept with its reason."""
    study = create_study(storage, name, "maximize")
    trial = study.ask()

    carry_out_orders(storage, name, retire(trial.number, requeue=False))

    seen = load_summary(storage, name)
    assert seen is not None
    assert (seen.failed, seen.preempted, seen.waiting) == (1, 0, 0)
    assert study.trials[0].user_attrs == {"error": "Preempted"}


def test_a_worker_whose_trial_was_retired_is_fenced(study_url: str, name: str):
    """Nothing it writes is taken any more, and it can tell why: at once, or, where writes are sent together, soon."""
    study = create_study(open_study_storage(study_url), name, "maximize")
    trial = study.ask()
    operator = open_study_storage(study_url)
    carry_out_orders(operator, name, retire(trial.number))

    new = itertools.count()  # what is known already is not written again
    writes = {
        "report": lambda: trial.report(0.5, next(new)),
        "attr": lambda: trial.set_user_attr("family", "Linear"),
        "suggest": lambda: trial.suggest_float(f"x{next(new)}", 0, 1),
        "tell": lambda: study.tell(trial, 0.5),
    }
    fenced = {}
    for what, write in writes.items():
        fenced[what] = is_fenced(refusal_of(write))

    assert fenced == dict.fromkeys(writes, True)
    assert Counter(t.state for t in study.trials) == {TrialState.FAIL: 1, TrialState.WAITING: 1}


def refusal_of(write: Callable[[], object]) -> BaseException:
    """What a write raises, when repeated until it does."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            write()
        except Exception as error:  # noqa: BLE001  # each storage has its own; is_fenced knows them
            return error
        time.sleep(0.02)
    raise AssertionError("the write was taken again and again")


def test_orders_for_a_study_that_is_not_there_are_refused(storage: BaseStorage, name: str):
    """The message names the study."""
    with pytest.raises(StudyError, match=name):
        carry_out_orders(storage, name, StudyOrders(limits=LIMITS))


def test_an_attribute_of_another_version_is_read_where_it_can_be(storage: BaseStorage, name: str):
    """Fields that this version does not know are ignored; a value of another kind is refused with a sentence."""
    study = create_study(storage, name, "maximize")
    study.set_user_attr("limits", json.loads('{"max_trials": 5, "max_failed_trials": 2, "max_regret": 1}'))
    limits = read_limits(study)
    study.set_user_attr("limits", "soon")

    assert limits == StudyLimits(5, 2)
    with pytest.raises(StudyError, match="limits must hold a StudyLimits, got soon"):
        read_limits(study)


def test_a_search_is_opened_again_with_its_trials(storage: BaseStorage, name: str):
    """What ended it is taken back, failed trials of the portfolio are queued once more, and finished ones stay. Twice is once."""
    study = create_study(storage, name, "maximize")
    for attr, value in (("portfolio", 0), ("portfolio", 1), ("family", "Linear")):
        trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
        trial.set_user_attr(attr, value)
        study.tell(trial, state=TrialState.FAIL)
    study.tell(study.ask(), 0.5)
    for attr, value in (
        (StudyAttr.FAILURE, Failure("data", "AccessDenied", "no")),
        (StudyAttr.SEARCH, {"exhausted": True}),
    ):
        set_study_attr(study, attr, value)
    carry_out_orders(storage, name, StudyOrders(limits=replace(LIMITS, stop=True)))

    for _ in range(2):
        carry_out_orders(storage, name, StudyOrders(reopen=Reopen(search=True)))

    summary = load_summary(storage, name)
    assert summary is not None
    assert (summary.failure, summary.exhausted, summary.limits) == (None, False, None)
    assert (summary.waiting, summary.failed, summary.completed) == (2, 3, 1)
    waiting = [t for t in study.get_trials() if t.state is TrialState.WAITING]
    assert [(t.user_attrs["retry_of"], t.user_attrs["attempt"], t.user_attrs["portfolio"]) for t in waiting] == [
        (0, 1, 0),
        (1, 1, 1),
    ]


def test_a_model_is_made_again_without_a_search(storage: BaseStorage, name: str):
    """The limits, and that there is nothing more to try, stay."""
    study = create_study(storage, name, "maximize")
    set_study_attr(study, StudyAttr.SEARCH, {"exhausted": True})
    set_study_attr(study, StudyAttr.FAILURE, Failure("finalize", "FinalizeFailed", "no memory"))
    carry_out_orders(storage, name, StudyOrders(limits=LIMITS))

    carry_out_orders(storage, name, StudyOrders(reopen=Reopen(search=False)))

    summary = load_summary(storage, name)
    assert summary is not None
    assert (summary.failure, summary.exhausted, summary.limits, summary.waiting) == (None, True, LIMITS, 0)
