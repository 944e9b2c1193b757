"""A study counted by SQL is a study counted trial by trial, whatever is in it."""

from __future__ import annotations

import random
import uuid
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState, create_trial

from kubeautoml.api.trials import MAX_ATTEMPTS, RetireTrial, StudyOrders
from kubeautoml.study import (
    carry_out_orders,
    create_study,
    delete_study,
    latest_study,
    list_studies,
    load_summary,
    open_study_storage,
)
from kubeautoml.study.database import open_database
from kubeautoml.study.orders import _unretried
from kubeautoml.study.storage import open_study_storage as open_url
from real.postgres import PostgresServer

SPACE = {
    "family": CategoricalDistribution(["LightGBM", "Linear", None, 3]),
    "rate": FloatDistribution(1e-3, 1.0, log=True),
    "depth": IntDistribution(1, 9),
}
STATES = [*TrialState, TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAIL]


def fill(study: optuna.Study, seed: int, trials: int = 40) -> None:
    """Trials of every kind, the same for the same seed."""
    rng = random.Random(seed)
    for number in range(trials):
        state = rng.choice(STATES)
        params = {name: _pick(rng, space) for name, space in SPACE.items() if rng.random() < 0.8}
        value = rng.choice([0.1, 0.5, 0.5, 0.9, rng.random(), float("inf"), float("-inf")])
        attrs: dict[str, Any] = {"attempt": rng.choice([1, 2, MAX_ATTEMPTS])} if rng.random() < 0.5 else {}
        if rng.random() < 0.5:
            attrs |= {"pod_uid": f"uid-{number}", "family": rng.choice(["HistGB", ""])}
        if state is TrialState.FAIL:
            attrs |= {"preempted": rng.choice([True, False])} if rng.random() < 0.6 else {}
            attrs |= {"error": rng.choice(["no memory", "no time", None])} if rng.random() < 0.6 else {}
        if number and rng.random() < 0.2:
            attrs |= {"retry_of": number - 1}
        trial = create_trial(
            state=state,
            value=value if state is TrialState.COMPLETE else None,
            params=params,
            distributions={name: SPACE[name] for name in params},
            user_attrs=attrs,
            intermediate_values={0: rng.choice([0.5, float("nan"), float("inf")])} if rng.random() < 0.3 else {},
        )
        study.add_trial(trial)
    study.set_user_attr("stage", "Ensembling")
    study.set_user_attr("search", {"exhausted": rng.random() < 0.5})


def _pick(rng: random.Random, space: Any) -> Any:
    if isinstance(space, CategoricalDistribution):
        return rng.choice(space.choices)
    return rng.randint(space.low, space.high) if isinstance(space, IntDistribution) else rng.uniform(0.01, 1)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("seed", range(2))
def test_a_database_counts_like_the_plain_way(study_url: str, name: str, direction: str, seed: int):
    """Summary, and what lacks its next attempt: the same from a storage that counts and from its trials themselves."""
    storage = open_study_storage(study_url)
    study = create_study(storage, name, direction)
    fill(study, seed)
    in_memory = InMemoryStorage()
    copy = create_study(in_memory, name, direction)
    for trial in study.get_trials():  # the trials as the storage gives them, counted one by one
        copy.add_trial(trial)
    for key, value in study.user_attrs.items():
        copy.set_user_attr(key, value)

    counted, one_by_one = load_summary(storage, name), load_summary(in_memory, name)

    assert counted == one_by_one
    assert [t.number for t in _unretried(study)] == [t.number for t in _unretried(copy)]


@pytest.mark.parametrize("seed", range(2))
def test_trials_come_back_as_they_were_written(study_url: str, name: str, seed: int):
    """All that a trial has: infinite and undefined values, steps, categories of any kind, times."""
    study = create_study(open_study_storage(study_url), name, "maximize")
    fill(study, seed, trials=15)
    plain = create_study(InMemoryStorage(), name, "maximize")
    fill(plain, seed, trials=15)

    got, given = study.get_trials(), plain.get_trials()

    assert [_without_times(t) for t in got] == [_without_times(t) for t in given]
    assert all((a.datetime_start is None) == (b.datetime_start is None) for a, b in zip(got, given, strict=True))


def _without_times(trial: optuna.trial.FrozenTrial) -> tuple[object, ...]:
    attrs = {k: v for k, v in trial.system_attrs.items() if not k.startswith("kubeautoml:")}
    steps = {step: str(value) for step, value in trial.intermediate_values.items()}  # NaN equals nothing
    return trial.number, trial.state, trial.values, trial.params, trial.distributions, trial.user_attrs, attrs, steps


def test_studies_are_listed_found_and_deleted(study_url: str):
    """By the beginning of the name, which may hold any letters; only a study with a completed trial can warm another."""
    storage = open_study_storage(study_url)
    space = f"team_{uuid.uuid4().hex[:6]}%"
    names = [f"{space}/churn/1", f"{space}/churn/2", f"{space}/churn/3", f"{space}/other/1"]
    for name in names:
        study = create_study(storage, name, "maximize")
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.report(0.5, 0)
        if not name.endswith("3"):
            study.tell(trial, 0.5)
    create_study(storage, space.replace("_", "x"), "maximize")

    listed, latest = list_studies(storage, f"{space}/"), latest_study(storage, f"{space}/churn/")
    deleted = [delete_study(storage, names[1]) for _ in range(2)]

    assert (listed, latest, deleted) == (names, names[1], [True, False])
    assert latest_study(storage, f"{space}/churn/") == names[0]
    assert load_summary(storage, names[1]) is None
    assert create_study(storage, names[1], "minimize").get_trials() == []


def test_two_operators_at_once_queue_a_trial_once(tmp_path: Path, name: str):
    """One that has just lost its lease, and the next: both have seen that the retry is missing."""
    url = f"sqlite://{tmp_path}/study.db"
    study = create_study(open_url(url), name, "maximize")
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    old: Any = open_database(f"sqlite:///{tmp_path}/study.db")
    carry_out_orders(old, name, StudyOrders(retire=(RetireTrial(0, 1, "Preempted", True),)))
    missing = [t for t in study.get_trials() if t.number == 0]
    old.unretried_trials = lambda _study_id: missing  # what it saw before the other one queued it

    carry_out_orders(old, name, StudyOrders())

    assert [t.user_attrs.get("retry_of") for t in study.get_trials()] == [None, 0]


@pytest.mark.postgres
def test_our_indexes_are_used(postgres_server: PostgresServer, name: str):
    """The look for missing retries reads an index, not a study's trials."""
    from sqlalchemy import text

    storage = open_database(postgres_server.create_database())
    create_study(storage, name, "maximize")
    with storage._backend.engine.connect() as connection:
        found = connection.execute(
            text("SELECT indexname FROM pg_indexes WHERE indexname LIKE 'kubeautoml%'")
        ).scalars()

        assert set(found) == {"kubeautoml_trials_by_number", "kubeautoml_trials_by_state", "kubeautoml_retries"}
