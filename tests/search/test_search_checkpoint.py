"""Checkpoints: a long trial that lost its pod goes on with the folds that are left, to the same result."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from kubeautoml.api.pod import PodContext
from kubeautoml.api.trials import StudyOrders
from kubeautoml.storage import open_store
from kubeautoml.study import carry_out_orders
from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.models.space import Parameters
from kubeautoml_trainer.search.checkpoint import Checkpoint, FoldResult
from kubeautoml_trainer.search.loop import SearchLoop
from kubeautoml_trainer.search.plan import Entry
from kubeautoml_trainer.search.signals import Terminated
from kubeautoml_trainer.search.trial import TrialRun, run_trial
from kubeautoml_trainer.tasks import task_for
from search.fakes import FakeFamily, FakePipeline, make_context, make_data, make_limits, make_loop, open_job_study

FOLDS = 3


def read_fake(folder: Path) -> FakePipeline:
    return FakePipeline(json.loads((folder / "model.json").read_text()), 1)


def make_checkpoint(folder: Path, entry: Entry, *, is_retry: bool, load: Any = read_fake, **other: Any) -> Checkpoint:
    """The checkpoint of trial 0, stored after every fold."""
    context = make_context(folder)
    store = open_store(context.job.output.uri)
    given = {"every_seconds": 0.0, **other}
    return Checkpoint(store, context.job.paths, 0, entry, folder / "s", is_retry=is_retry, load=load, **given)


def make_fold(value: float = 0.5) -> FoldResult:
    rows = np.arange(4, dtype=np.float32).reshape(4, 1)
    return FoldResult(FakePipeline(value, 1), rows, rows * 2, value, fit_seconds=1.5, predict_seconds=0.25)


ENTRY = Entry("Fake", {"rate": 0.1})


def test_a_fold_is_read_back_as_it_was_stored(tmp_path: Path) -> None:
    """Pipeline, predictions, score and times."""
    make_checkpoint(tmp_path, ENTRY, is_retry=False).done(0, make_fold())

    found = make_checkpoint(tmp_path, ENTRY, is_retry=True).stored(0)

    assert found is not None
    assert (found.value, found.fit_seconds, found.predict_seconds) == (0.5, 1.5, 0.25)
    assert np.array_equal(found.oof, make_fold().oof) and np.array_equal(found.holdout, make_fold().holdout)
    assert found.pipeline.predict(make_data(make_context(tmp_path).job).holdout.frame)[0, 0] == np.float32(0.5)


def test_a_first_attempt_looks_for_nothing_and_a_short_trial_stores_nothing(tmp_path: Path) -> None:
    """Short trials must not pay for what long ones need."""
    short = make_checkpoint(tmp_path, ENTRY, is_retry=False, every_seconds=3600.0)
    short.done(0, make_fold())

    assert make_checkpoint(tmp_path, ENTRY, is_retry=True).stored(0) is None
    short.store()
    assert make_checkpoint(tmp_path, ENTRY, is_retry=False).stored(0) is None
    assert make_checkpoint(tmp_path, ENTRY, is_retry=True).stored(0) is not None


@pytest.mark.parametrize("entry", [Entry("Fake", {"rate": 0.2}), Entry("Other", {"rate": 0.1})])
def test_a_fold_of_other_parameters_is_passed_over(tmp_path: Path, entry: Entry) -> None:
    """A retry has the same parameters; anything else there is somebody else's."""
    make_checkpoint(tmp_path, ENTRY, is_retry=False).done(0, make_fold())

    assert make_checkpoint(tmp_path, entry, is_retry=True).stored(0) is None


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "empty"])
def test_a_damaged_fold_is_fitted_again(tmp_path: Path, damage: str) -> None:
    """Half an object, a changed byte, something else: never taken for a fold, never the end of the trial."""
    context = make_context(tmp_path)
    store, uri = open_store(context.job.output.uri), context.job.paths.checkpoint(0, 0)
    make_checkpoint(tmp_path, ENTRY, is_retry=False).done(0, make_fold())
    whole = store.read(uri)
    at = whole.index(np.float32(3.0).tobytes())
    flipped = whole[:at] + np.float32(9.0).tobytes() + whole[at + 4 :]
    store.write(uri, {"cut": whole[: len(whole) // 2], "flipped": flipped, "foreign": b"no tar", "empty": b""}[damage])

    assert make_checkpoint(tmp_path, ENTRY, is_retry=True).stored(0) is None


def test_what_was_stored_goes_when_the_trial_ends(tmp_path: Path) -> None:
    """Nothing is left in the bucket."""
    checkpoint = make_checkpoint(tmp_path, ENTRY, is_retry=False)
    checkpoint.done(0, make_fold())
    checkpoint.forget()

    context = make_context(tmp_path)
    assert open_store(context.job.output.uri).find(context.job.paths.checkpoint()) == []


@pytest.mark.parametrize("family", ["Linear", "LightGBM", "ExtraTrees", "CatBoost", "NeuralNetwork"])
def test_a_resumed_trial_comes_to_the_same_as_an_uninterrupted_one(tmp_path: Path, family: str) -> None:
    """Value, scores of the folds and predictions, bit by bit."""
    context = make_context(tmp_path)
    data = make_data(context.job)
    task = task_for(context.job.task.type, data.schema)
    entry = Entry(family, {})
    store = open_store(context.job.output.uri)

    def attempt(is_retry: bool, stop_after: int | None, *, keeps: bool = True) -> Any:
        checkpoint = Checkpoint(
            store, context.job.paths, 0, entry, tmp_path / "s", is_retry=is_retry, every_seconds=0.0 if keeps else 1e9
        )

        def after_fold(fold: int, value: float) -> None:
            if fold == stop_after:
                raise Terminated

        run = TrialRun(data, task, "Rmse", 1, 7, after_fold, lambda left, short: 1e12, checkpoint)
        return run_trial(0, 1, entry, family_named(family), run)

    with pytest.raises(Terminated):
        attempt(False, 1)
    resumed = attempt(True, None)
    whole = attempt(False, None, keeps=False)

    assert resumed.record.value == whole.record.value
    assert resumed.record.fold_values == whole.record.fold_values
    assert np.array_equal(resumed.predictions.oof, whole.predictions.oof, equal_nan=True)
    assert np.array_equal(resumed.predictions.holdout, whole.predictions.holdout)
    assert resumed.record.fit_seconds > 0


def make_slow_loop(context: PodContext, study: optuna.Study, fits: list[int], terminate_at: int | None) -> SearchLoop:
    """A worker that stores after every fold; SIGTERM comes during its n-th fit."""

    def on_fit(parameters: Parameters, fit: FitContext) -> None:
        fits.append(len(fits))
        if len(fits) == terminate_at:
            loop.guard.on_signal(signal.SIGTERM, None)

    loop = replace(make_loop(context, (FakeFamily(on_fit=on_fit),), study), load=read_fake, checkpoint_seconds=0.0)
    return loop


def test_a_worker_that_is_told_to_leave_hands_its_folds_on(tmp_path: Path) -> None:
    """The next attempt, in another pod, fits what is left; the trial counts once, and nothing stays in the bucket."""
    first, second = make_context(tmp_path, "pod-1"), make_context(tmp_path, "pod-2")
    study = open_job_study(first, make_limits(max_trials=1))
    fits: list[int] = []
    with pytest.raises(Terminated):
        make_slow_loop(first, study, fits, terminate_at=3).run()
    carry_out_orders(study._storage, study.study_name, StudyOrders())

    later: list[int] = []
    make_slow_loop(second, study, later, terminate_at=None).run()

    states = [t.state for t in study.get_trials()]
    assert states == [TrialState.FAIL, TrialState.COMPLETE]
    assert (len(fits), len(later)) == (FOLDS, 1)
    assert open_store(first.job.output.uri).find(first.job.paths.checkpoint()) == []


def test_a_worker_that_is_killed_has_stored_the_folds_before(tmp_path: Path) -> None:
    """Nobody says goodbye on SIGKILL: what was stored after each fold is what the next attempt finds."""
    context = make_context(tmp_path)
    study = open_job_study(context, make_limits(max_trials=1))

    class Killed(BaseException):
        pass

    fits: list[int] = []

    def on_fit(parameters: Parameters, fit: FitContext) -> None:
        fits.append(len(fits))
        if len(fits) == FOLDS:
            raise Killed

    loop = replace(make_loop(context, (FakeFamily(on_fit=on_fit),), study), load=read_fake, checkpoint_seconds=0.0)
    with pytest.raises(Killed):
        loop.run()

    names = [o.uri.rpartition("/")[2] for o in open_store(context.job.output.uri).find(context.job.paths.checkpoint())]
    assert sorted(names) == ["0.tar", "1.tar"]
