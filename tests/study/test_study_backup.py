"""The README's backup of the trials: pg_dump, and a search that goes on from what was restored."""

from __future__ import annotations

import os
import subprocess

import pytest

from kubeautoml.api.trials import StudyLimits, StudyOrders
from kubeautoml.study import create_study, load_summary, open_study_storage
from kubeautoml.study.orders import carry_out_orders
from real.postgres import PostgresServer, postgres_binaries
from real.study_server import running_study_server

LIMITS = StudyLimits(max_trials=10, max_failed_trials=3)


def copy_database(source: str, target: str) -> None:
    """pg_dump into psql, as the README says."""
    folder = postgres_binaries()
    environment = {**os.environ, "PGOPTIONS": "--client-min-messages=warning"}
    dump = subprocess.run([folder / "pg_dump", "--no-owner", source], capture_output=True, check=True, env=environment)
    restore = [folder / "psql", "--quiet", "--set", "ON_ERROR_STOP=1", target]
    subprocess.run(restore, input=dump.stdout, capture_output=True, check=True, env=environment)


@pytest.mark.postgres
def test_a_search_goes_on_from_a_restored_dump(postgres_server: PostgresServer, name: str):
    """All trials with their values, numbers and attributes; what was running is still known, and the next number is free."""
    before, after = postgres_server.create_database(), postgres_server.create_database()
    with running_study_server(before) as server:
        storage = open_study_storage(server.url)
        study = create_study(storage, name, "maximize")
        carry_out_orders(storage, name, StudyOrders(limits=LIMITS))
        for value in (0.5, 0.9):
            trial = study.ask()
            trial.suggest_float("x", 0, 1)
            study.tell(trial, value)
        running = study.ask()
        running.set_user_attr("pod_uid", "uid-1")
        seen = load_summary(storage, name)
        trials = study.get_trials()

    copy_database(before, after)

    with running_study_server(after) as server:
        storage = open_study_storage(server.url)
        study = create_study(storage, name, "maximize")
        assert load_summary(storage, name) == seen
        assert [(t.number, t.params, t.values, t.user_attrs) for t in study.get_trials()] == [
            (t.number, t.params, t.values, t.user_attrs) for t in trials
        ]
        assert study.ask().number == 3
