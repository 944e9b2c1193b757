"""A finalist that ran on further folds is weighed by what its first round said, as all other trials are."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from finalize.finalize_factories import Searched, make_searched
from kubeautoml.api.trials import TrialAttr
from kubeautoml_trainer.artifacts import read_predictions, read_record, write_trial
from kubeautoml_trainer.data.prepare import prepare
from kubeautoml_trainer.ensemble import build as building
from kubeautoml_trainer.ensemble.base import Candidate
from kubeautoml_trainer.finishing.bundle import build_model
from kubeautoml_trainer.finishing.work import load, scored_trials
from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.search.checkpoint import Checkpoint
from kubeautoml_trainer.search.plan import Entry
from kubeautoml_trainer.search.trial import TrialRun, run_trial
from kubeautoml_trainer.tasks import task_for

PROMOTED, OTHER, FINALIST = 1, 2, 3
ENTRIES = (Entry("Dummy", {}), Entry("ExtraTrees", {"trees": 5}), Entry("Linear", {}))


def promote(searched: Searched, rounds: int) -> None:
    """Run the trial again, on so many rounds of folds; with one, as a trial on a sample is run again on all rows."""
    context, store, study = searched.context, searched.store, searched.study
    job, data = context.job, prepare(context)
    trial = study.ask()
    assert trial.number == FINALIST
    entry = ENTRIES[PROMOTED]
    checkpoint = Checkpoint(store, job.paths, FINALIST, entry, context.scratch_dir, is_retry=False)
    again = tuple(np.random.default_rng(k).permutation(data.fold) for k in range(rounds - 1))
    run = TrialRun(
        data,
        task_for(job.task.type, data.schema),
        job.metric,
        1,
        7,
        lambda fold, value: None,
        lambda *folds_left: math.inf,
        checkpoint,
        repeats=again,
    )
    outcome = run_trial(FINALIST, 1, entry, family_named(entry.family), run)
    write_trial(store, job.paths, outcome.record, outcome.predictions, outcome.models)
    trial.set_user_attr(TrialAttr.FAMILY.value, entry.family)
    trial.set_user_attr(TrialAttr.PROMOTES.value, PROMOTED)
    better = max(outcome.record.value, read_record(store, job.paths, PROMOTED).value)
    study.tell(trial, better)  # never refused for its luck


def weighed(searched: Searched, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[int, Candidate], building.Built]:
    """The candidates that the ensemble was chosen from, and what came of them."""
    seen: dict[int, Candidate] = {}
    choose = building.select

    def select(candidates: Sequence[Candidate], *args, **more):
        seen.update({c.trial: c for c in candidates})
        return choose(candidates, *args, **more)

    monkeypatch.setattr(building, "select", select)
    _, built = build_model(load(searched.context, searched.study), math.inf, keeps_constraints=True)
    return seen, built


def test_a_repeated_trial_competes_with_its_first_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean over rounds is of several models a row, and would win against those of one; in the model are all its pipelines."""
    searched = make_searched(tmp_path, entries=ENTRIES)
    promote(searched, rounds=3)
    paths = searched.paths

    candidates, built = weighed(searched, monkeypatch)

    assert [(t.trial, t.promoted) for t in scored_trials(searched.study)] == [
        (0, None),
        (OTHER, None),
        (FINALIST, PROMOTED),
    ]
    first, record = read_predictions(searched.store, paths, PROMOTED), read_record(searched.store, paths, PROMOTED)
    assert PROMOTED not in candidates
    assert np.array_equal(candidates[FINALIST].oof, first.oof)
    assert candidates[FINALIST].value == record.value
    assert np.array_equal(candidates[OTHER].oof, read_predictions(searched.store, paths, OTHER).oof)
    assert FINALIST in built.selection.weights
    assert {len(m.pipelines) for m in built.model.members} == {2, 6}


def test_a_trial_that_was_run_again_on_all_rows_competes_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first run learned from a sample: that is another model."""
    searched = make_searched(tmp_path, entries=ENTRIES)
    promote(searched, rounds=1)

    candidates, _ = weighed(searched, monkeypatch)

    found = read_predictions(searched.store, searched.paths, FINALIST)
    assert np.array_equal(candidates[FINALIST].oof, found.oof)


def test_a_first_round_that_is_gone_leaves_the_trial_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Artifacts may be deleted, or damaged."""
    searched = make_searched(tmp_path, entries=ENTRIES)
    promote(searched, rounds=3)
    searched.store.delete(searched.paths.trial(PROMOTED))

    candidates, built = weighed(searched, monkeypatch)

    found = read_predictions(searched.store, searched.paths, FINALIST)
    assert np.array_equal(candidates[FINALIST].oof, found.oof)
    assert FINALIST in built.selection.weights


@pytest.mark.parametrize("has_deadline", [False, True])
def test_the_time_to_predict_decides_only_where_a_clock_ends_the_search(tmp_path, monkeypatch, has_deadline):
    """Where nothing but trials are counted the same seed gives the same model."""
    searched = make_searched(tmp_path, job_deadline=time.time() + 600 if has_deadline else None)

    candidates, _ = weighed(searched, monkeypatch)

    assert len(candidates) > 1
    assert {c.predict_seconds > 0 for c in candidates.values()} == {has_deadline}
