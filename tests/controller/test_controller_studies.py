"""Studies behind URLs: what a hanging server costs, what is kept in memory, and finding and deleting studies."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial

from kubeautoml.api.errors import ClusterError, StudyError
from kubeautoml.api.logs import JsonFormatter, log_context
from kubeautoml.api.metrics import Direction
from kubeautoml.api.trials import StudyOrders
from kubeautoml.controller import studies as module
from kubeautoml.controller.fence import Fence
from kubeautoml.controller.studies import THREADS, Studies
from kubeautoml.study import create_study, open_study_storage
from real.study_server import running_study_server

NAME = "team-a/churn/u1"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], Any]]:
    """What opening a URL does; others are opened as always."""
    openers: dict[str, Callable[[], Any]] = {}
    real = Studies._open
    monkeypatch.setattr(Studies, "_open", lambda self, url: openers[url]() if url in openers else real(self, url))
    return openers


def finished(url: str, name: str, trials: int = 1) -> None:
    """A study with so many completed trials."""
    study = create_study(open_study_storage(url), name, Direction.MAXIMIZE)
    for number in range(trials):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, float(number))


@pytest.mark.anyio
async def test_a_study_server_that_hangs_costs_only_its_own_jobs(
    opened: dict[str, Callable[[], Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its calls are given up, further ones fail at once, the loop turns, and studies elsewhere answer."""
    monkeypatch.setattr(module, "CALL_SECONDS", 0.1)
    monkeypatch.setattr(module, "REST_SECONDS", 0.0)
    release, hanging = threading.Event(), 0

    def hang() -> Any:
        nonlocal hanging
        hanging += 1
        release.wait(60)
        raise StudyError("released")

    opened["grpc://hangs:1"] = hang
    here = f"sqlite://{tmp_path}/study.db"
    finished(here, NAME)
    studies = Studies()
    try:
        slow = [studies.summary("grpc://hangs:1", f"team-a/job/{n}") for n in range(THREADS)]
        given_up = await asyncio.gather(*slow, return_exceptions=True)
        await asyncio.sleep(0.15)
        with pytest.raises(StudyError) as at_once:
            await studies.summary("grpc://hangs:1", "team-a/job/9")
        monkeypatch.setattr(module, "CALL_SECONDS", 60.0)
        summary = await studies.summary(here, NAME)
    finally:
        release.set()
        studies.close()

    assert all(isinstance(error, StudyError) for error in given_up), given_up
    assert "did not answer within" in str(given_up[0])
    assert "did not answer" in str(at_once.value)
    assert summary is not None and summary.completed == 1


@pytest.mark.anyio
async def test_after_a_call_in_vain_others_do_not_wait_likewise(
    opened: dict[str, Callable[[], Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """A thousand jobs would otherwise each hold a worker for the patience of a call. The log says it once, and when it is over."""
    caplog.set_level(logging.INFO, "kubeautoml.controller.studies")
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.1)
    tries = 0

    def away() -> Any:
        nonlocal tries
        tries += 1
        threading.Event().wait(0.06)
        raise StudyError("study server did not answer for 0 s")

    opened["grpc://away:1"] = away
    studies = Studies()
    errors = []
    for number in range(20):
        with pytest.raises(StudyError) as error:
            await studies.summary("grpc://away:1", f"team-a/job/{number}")
        errors.append(str(error.value))
    monkeypatch.setattr(studies._places["grpc://away:1"], "_rests_until", 0.0)
    opened["grpc://away:1"] = lambda: open_study_storage(f"sqlite://{tmp_path}/study.db")
    await studies.summary("grpc://away:1", NAME)
    studies.close()

    assert set(errors) == {"study server did not answer for 0 s"}
    assert tries < 3
    said = [record.message for record in caplog.records if record.name == module.__name__]
    assert said == ["studies do not answer", "studies answer again"]


@pytest.mark.anyio
async def test_a_damaged_study_does_not_close_its_url(tmp_path: Path) -> None:
    """What fails at once says nothing about the others."""
    url = f"sqlite://{tmp_path}/study.db"
    finished(url, NAME)
    studies = Studies()
    with pytest.raises(StudyError, match="the study did not answer: ValueError: damaged"):
        await studies._call("summary", url, _raise_damaged)

    assert (await studies.summary(url, NAME)) is not None
    studies.close()


def _raise_damaged(storage: Any) -> None:
    raise ValueError("damaged\nin several lines")


@pytest.mark.anyio
async def test_what_is_logged_in_a_study_call_names_the_job(tmp_path: Path) -> None:
    """The thread that calls has the context of the pass."""
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(JsonFormatter())
    log = logging.getLogger("test-studies")
    log.addHandler(handler)
    studies = Studies()

    with log_context(job="team-a/churn"):
        await studies._call("summary", f"sqlite://{tmp_path}/study.db", lambda storage: log.warning("slow"))
    log.removeHandler(handler)
    studies.close()

    assert json.loads(lines.getvalue())["job"] == "team-a/churn"


@pytest.mark.anyio
async def test_the_latest_study_of_a_job_is_found_by_its_name(tmp_path: Path) -> None:
    """The newest that has a completed trial; neither a namesake in another namespace nor a longer name counts."""
    url = f"sqlite://{tmp_path}/study.db"
    for name, trials in (
        ("team-a/churn/old", 2),
        ("team-a/churn/new", 1),
        ("team-a/churn/empty", 0),
        ("team-a/churn-2/x", 1),
        ("team-b/churn/x", 1),
    ):
        finished(url, name, trials)
    studies = Studies()

    found = [await studies.latest(url, namespace, "churn") for namespace in ("team-a", "team-b", "team-c")]
    studies.close()

    assert found == ["team-a/churn/new", "team-b/churn/x", None]


@pytest.mark.anyio
async def test_a_study_can_be_deleted_by_the_leader_only(tmp_path: Path) -> None:
    """Reading needs no lease; a second deletion finds nothing and is fine."""
    url, holds = f"sqlite://{tmp_path}/study.db", False
    finished(url, NAME)
    studies = Studies(fence=Fence(lambda: holds))

    with pytest.raises(ClusterError) as error:
        await studies.delete(url, NAME)
    there = await studies.summary(url, NAME)
    holds = True
    deleted = [await studies.delete(url, NAME), await studies.delete(url, NAME)]
    gone = await studies.summary(url, NAME)
    studies.close()

    assert error.value.reason == "NotLeading"
    assert (there is not None, deleted, gone) == (True, [True, False], None)


@pytest.mark.anyio
@pytest.mark.parametrize("served", [False, True])
async def test_no_trials_of_any_job_stay_in_memory(tmp_path: Path, served: bool) -> None:
    """A job may have twenty thousand, and there may be a thousand jobs."""
    database = f"sqlite://{tmp_path}/study.db"
    names = [f"team-a/job-{n}/u" for n in range(4)]
    for name in names:
        finished(database, name, trials=10)
    with running_study_server(database) if served else nullcontext() as server:
        studies, url = Studies(), server.url if server else database
        gc.collect()
        before = sum(isinstance(o, FrozenTrial) for o in gc.get_objects())

        summaries = [await studies.summary(url, name) for name in names]
        for name in names:
            await studies.carry_out(url, name, StudyOrders())
        gc.collect()
        after = sum(isinstance(o, FrozenTrial) for o in gc.get_objects())
        studies.close()

    assert [summary.completed for summary in summaries if summary] == [10] * 4
    assert after - before < 10
