"""Fits beside one another in processes: the same models, each process on one thread, and none left when it is over."""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from multiprocessing import active_children

import numpy as np
import pytest

from finalize import hands_acts
from finalize.finalize_factories import ENTRIES, make_searched, soon
from finalize.test_finalize_refolded import make_bench
from kubeautoml_trainer import finalize as finalizer
from kubeautoml_trainer.bundle import load_bundle
from kubeautoml_trainer.data.base import Rows
from kubeautoml_trainer.models.pipeline import load_pipeline
from kubeautoml_trainer.variants import hands as module
from kubeautoml_trainer.variants.hands import Hands, hands_for
from kubeautoml_trainer.variants.refit import Refits
from kubeautoml_trainer.variants.refolded import start_refolding


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Linear and LightGBM on Boston, two folds each."""
    return make_bench(tmp_path_factory.mktemp("hands"))[0]


@pytest.fixture
def hands(bench):
    made = Hands(replace(bench.ground, threads=2), 2)
    yield made
    made.close()


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def are_up(hands: Hands) -> None:
    """Until then this process does everything."""
    seen: set[int] = set()

    def have_all() -> bool:
        seen.add(hands._submit(module._do, hands_acts.say, 0.0).result(120)[0])
        return len(seen) == hands.count

    assert is_soon(have_all, 120)


def is_soon(claim, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_tasks_are_done_by_processes_of_one_thread_and_what_comes_of_them_has_their_order(bench, hands):
    are_up(hands)

    found = hands.start(hands_acts.say, [0.5 * k for k in range(40)], soon(60))()

    assert [task for _, task, _, _ in found] == [0.5 * k for k in range(40)]
    assert {(rows, threads) for _, _, rows, threads in found} == {(len(bench.shop.data.train), 1)}
    processes = {pid for pid, *_ in found} - {os.getpid()}
    assert len(processes) == 2 and len({pid for pid, *_ in found}) == 3
    hands.close()
    assert is_soon(lambda: not any(map(is_there, processes)))


def test_a_process_is_ready_to_fit_the_families_that_there_will_be(bench):
    """The first fit of a network pays for loading torch."""
    hands = Hands(bench.ground, 1, ("NeuralNetwork", "Linear", "CatBoost"))
    try:
        futures = [hands._submit(module._do, hands_acts.is_loaded, name) for name in ("torch", "catboost", "xgboost")]
        assert [future.result(60) for future in futures] == [True, True, False]
    finally:
        hands.close()


@pytest.mark.parametrize("end", ["death", "never"])
def test_when_a_process_is_lost_its_task_is_missing_and_this_one_goes_on(bench, hands, monkeypatch, end):
    """Killed for want of memory, or in a fit that does not heed its deadline; the next fits are made here."""
    monkeypatch.setattr(module, "_LATE_SECONDS", 0.2)
    are_up(hands)
    with_hands = replace(bench, hands=hands)

    finish = with_hands.start(hands_acts.die_of, [end, "well", "well", "well"], time.monotonic() + 1)
    time.sleep(0.3)  # else this process might be the first to take it
    found = finish()

    assert found[0] is None
    assert set(found) <= {"well", None}
    assert not hands.are_there
    assert with_hands.each(hands_acts.die_of, ["well", "well"], math.inf) == ["well", "well"]
    assert is_soon(lambda: not set(active_children()) - hands._others)


def test_a_process_that_dies_before_there_is_work_is_not_missed(bench, hands):
    """Nobody gets to see a broken pool."""
    are_up(hands)
    for process in set(active_children()) - hands._others:
        process.kill()
    assert is_soon(lambda: hands._submit(int) is None)

    found = replace(bench, hands=hands).each(hands_acts.die_of, ["well"] * 3, math.inf)

    assert found == ["well"] * 3


def test_the_models_are_those_that_one_process_makes(tmp_path, hands):
    """Of an ensemble that learns from the hold-out, and of refits."""
    plain, before = make_bench(tmp_path)
    made = {}
    for name, who in (("here", None), ("beside", hands)):
        bench = replace(plain, hands=who, shop=replace(plain.shop, scratch=tmp_path / name))
        refits = Refits(bench)
        refits.make([(0, 0), (1, 0), (1, 1)])
        singles = [refits.copy(0, 0), refits.copy(1, 0), refits.copy(1, 1)]
        made[name] = start_refolding(bench, before, soon(60)).made(), singles
    frame = plain.shop.data.train.frame

    (here, here_singles), (beside, beside_singles) = made["here"], made["beside"]

    assert beside.notes == here.notes and "fitted once more" in beside.notes[-1]
    assert beside.holdout == pytest.approx(here.holdout, rel=1e-6)
    for one, other in zip(here.members, beside.members, strict=True):
        for a, b in zip(one.folders, other.folders, strict=True):
            assert a != b
            assert np.allclose(load_pipeline(a).predict(frame), load_pipeline(b).predict(frame), rtol=1e-6)
    for single, twin in zip(here_singles, beside_singles, strict=True):
        assert single.is_refit and twin.is_refit
        assert np.allclose(single.holdout, twin.holdout, rtol=1e-6)


@pytest.mark.parametrize("why", ["one thread", "one core", "many rows", "texts", "accelerator", "no memory", None])
def test_there_are_hands_where_they_are_of_use(bench, monkeypatch, tmp_path, why):
    """Four cores, three threads, and room for as many processes: two beside this one."""
    ground = replace(bench.ground, threads=1 if why == "one thread" else 3)
    monkeypatch.setattr(module, "usable_cores", lambda: 1 if why == "one core" else 4)
    monkeypatch.setattr(module, "_ACCELERATORS", (tmp_path if why == "accelerator" else tmp_path / "none",))
    room = 1 if why == "no memory" else 6
    monkeypatch.setattr(module, "free_memory_bytes", lambda: room * module._HAND_BYTES)
    monkeypatch.setattr(module, "Hands", lambda ground, count, families: count)
    if why == "many rows":
        monkeypatch.setattr(module, "MOST_ROWS_REFOLDED", len(ground.data.train) - 1)
    if why == "texts":
        frame = ground.data.train.frame
        column = replace(ground.data.schema.columns[0], type=module.ColumnType.TEXT)
        schema = replace(ground.data.schema, columns=(column, *ground.data.schema.columns[1:]))
        profile = replace(ground.data.profile, schema=schema)
        ground = replace(ground, data=replace(ground.data, profile=profile, train=Rows(frame, ground.data.train.y)))

    assert hands_for(ground) == (2 if why is None else None)


def test_where_no_process_can_be_started_all_is_done_here(bench, monkeypatch):
    """Semaphores need /dev/shm."""
    monkeypatch.setattr(module, "usable_cores", lambda: 2)
    monkeypatch.setattr(module, "_ACCELERATORS", ())

    def fail(*_, **__):
        raise FileNotFoundError(2, "No such file or directory", "/dev/shm")

    monkeypatch.setattr(module, "ProcessPoolExecutor", fail)

    assert hands_for(replace(bench.ground, threads=2)) is None


def test_a_finalizer_of_two_threads_has_its_models_fitted_beside_one_another(tmp_path, monkeypatch):
    """The whole of it: the same scores and as many models fitted again, by processes that are gone in the end."""
    monkeypatch.setattr(module, "usable_cores", lambda: 2)
    monkeypatch.setattr(module, "_ACCELERATORS", ())
    used: list[int] = []
    start = Hands.start
    monkeypatch.setattr(
        Hands, "start", lambda self, act, tasks, until: used.append(len(tasks)) or start(self, act, tasks, until)
    )
    models = {}
    for threads in (1, 2):
        searched = make_searched(
            tmp_path / str(threads), "MEDV", entries=ENTRIES[1:3], variants=["Quality", "Balanced"]
        )
        context = replace(searched.context, threads=threads)
        models[threads] = load_bundle(finalizer.finalize(context, searched.study).model_uri)

    assert used == [2, 4, 2], (
        "refits; all models of the ensemble, while this process evaluates; refits with the hold-out"
    )
    assert models[1].metrics == pytest.approx(models[2].metrics)
    assert models[1].variant.notes == models[2].variant.notes
    assert is_soon(lambda: not active_children())


def test_processes_leave_with_a_finalizer_that_is_killed(tmp_path):
    """Nobody closes them then."""
    finalizer_process = hands_acts.start_finalizer(str(tmp_path))
    sleepers = tmp_path / "sleepers"
    try:
        assert is_soon(lambda: sleepers.exists() and len(sleepers.read_text().split()) == 2, 120)
        processes = [int(pid) for pid in sleepers.read_text().split()]
        assert all(map(is_there, processes))
    finally:
        finalizer_process.kill()
        finalizer_process.wait()

    assert is_soon(lambda: not any(map(is_there, processes)))
