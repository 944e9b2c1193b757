"""Which members a lean model keeps, by what they cost and what is lost without them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from finalize.finalize_factories import make_searched
from kubeautoml.api.metrics import TaskType
from kubeautoml.api.objective import RefitRows
from kubeautoml_trainer.artifacts import read_record
from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.ensemble.base import UNLIMITED
from kubeautoml_trainer.models import EVERY_FAMILY, PRETRAINED_FAMILIES
from kubeautoml_trainer.search.plan import Entry
from kubeautoml_trainer.tasks import task_for
from kubeautoml_trainer.variants.balanced import as_fitted, copies_of
from kubeautoml_trainer.variants.lean import (
    LEAN_BYTES,
    LEANER,
    LEAST,
    ROW_MS,
    Leanness,
    _estimate,
    lean,
    lean_weights,
    leanness_of,
)
from kubeautoml_trainer.variants.refit import Single


def make_members(*errors, folds=8, family="CatBoost"):
    """Stored trials whose out-of-fold predictions are the truth and so much noise, each with its own."""
    truth = np.random.default_rng(0).normal(size=4000)
    members = {}
    for number, error in enumerate(errors):
        noise = np.random.default_rng(number + 1).normal(size=4000)
        record = SimpleNamespace(number=number, family=family, folds=folds, size_bytes=1000, predict_seconds=1.0)
        members[number] = SimpleNamespace(record=record, oof=(truth + error * noise)[:, None].astype(np.float32))
    rows = Rows(pd.DataFrame(index=range(4000)), truth)
    task = task_for(TaskType.TABULAR_REGRESSION, Schema("y", ()))
    job = SimpleNamespace(
        metric="Rmse", output=SimpleNamespace(refit_on=RefitRows.ALL_ROWS), dataset=SimpleNamespace(test=None)
    )
    data = SimpleNamespace(train=rows, holdout=rows.take(np.arange(1000)), fold=np.arange(4000) % 8)
    return SimpleNamespace(data=data, task=task, job=job), members


def test_the_time_of_a_model_is_known_without_a_hold_out_too():
    """A second for 1,000 hold-out rows, or for the 500 that each of eight folds left out; a fold's model takes an eighth."""
    shop, members = make_members(0.3)

    assert _estimate(shop, members, {0: 1.0}).latency_ms == pytest.approx(1000 / 8 / 1000)
    shop.data.holdout, shop.data.profile = shop.data.holdout.take(np.arange(0)), SimpleNamespace(folds=8)
    assert _estimate(shop, members, {0: 1.0}).latency_ms == pytest.approx(1000 / 8 / 500)


@pytest.mark.parametrize("fraction", ["0", "0.2"])
def test_what_trials_take_to_predict_is_measured(tmp_path, fraction):
    """On the hold-out, and where there is none on what the folds left out: neighbours take longer than a line."""
    dataset = {"train": {"uri": f"file://{tmp_path}/train.csv"}, "split": {"folds": 2, "testFraction": fraction}}
    entries = (Entry("NearestNeighbors", {}), Entry("Dummy", {}))

    searched = make_searched(tmp_path, entries=entries, dataset=dataset)
    paths = searched.context.job.paths
    near, dummy = (read_record(searched.store, paths, number).predict_seconds for number in (0, 1))

    assert near > dummy > 0


@pytest.mark.parametrize(("weight", "kept"), [(0.0045, 1), (0.02, 2)])
def test_a_member_that_costs_the_promised_speed_goes_where_that_loses_little(weight, kept):
    """Two slow families in eight folds are five times faster than the ensemble with both, and seven times with one."""
    shop, members = make_members(0.3, 0.3)
    weights = {0: 1 - weight, 1: weight}

    left = lean_weights(shop, Leanness(members, weights), weights, UNLIMITED)

    than = Leanness(members, weights)
    assert than.leaner(weights) < 6 < than.leaner({0: 1.0})
    assert len(left) == kept


def test_members_stay_where_leaving_them_out_would_not_make_it_fast_enough():
    """With two folds nothing is six times faster than them."""
    shop, members = make_members(0.3, 0.3, folds=2)

    assert len(lean_weights(shop, Leanness(members, {0: 0.9955, 1: 0.0045}), {0: 0.9955, 1: 0.0045}, UNLIMITED)) == 2


def test_members_that_bring_little_stay_where_all_are_lean_enough():
    """With three rounds of eight folds one model of each is lean; as refits they do good."""
    shop, members = make_members(0.3, 0.3, folds=24)

    assert lean_weights(shop, Leanness(members, {0: 0.9999, 1: 0.0001}), {0: 0.9999, 1: 0.0001}, UNLIMITED) == {
        0: 0.9999,
        1: 0.0001,
    }


def test_what_is_just_lean_enough_stays_before_anything_is_lost():
    """Two boosters in eight folds, both 6.2 times faster than the ensemble, one 11 times: a fifth of a percent better together."""
    shop, members = make_members(0.3, 0.6)
    members[0].record.family, members[1].record.family = "CatBoost", "XGBoost"
    weights = {0: 0.98, 1: 0.02}

    than = Leanness(members, weights)

    assert LEAST <= than.leaner(weights) < LEANER <= than.leaner({0: 1.0})
    assert set(lean_weights(shop, than, weights, UNLIMITED)) == {0, 1}


def test_of_members_that_would_make_it_lean_the_one_least_missed_goes():
    """Not the largest."""
    shop, members = make_members(0.3, 3.0, 5.0, folds=6)
    members[1].record.family = members[2].record.family = "TabM"
    members[2].record.size_bytes = 500

    assert set(
        lean_weights(shop, Leanness(members, {0: 0.987, 1: 0.009, 2: 0.004}), {0: 0.987, 1: 0.009, 2: 0.004}, UNLIMITED)
    ) == {0, 1}


@pytest.mark.parametrize(("folds", "has_second"), [(8, False), (24, True)])
def test_the_second_level_stays_where_its_members_are_lean(folds, has_second):
    """Though the first level alone would do as well; where they are not lean, it goes if that costs little."""
    shop, members = make_members(0.3, 0.3, folds=folds)
    second = SimpleNamespace(weight=0.5, oof=members[0].oof)
    weights = {0: 0.25, 1: 0.25}
    selection = SimpleNamespace(weights=weights, first_weights={0: 0.5, 1: 0.5}, second=second)
    built = SimpleNamespace(candidates=members, selection=selection, files=())

    left, kept = lean(shop, built, UNLIMITED)

    assert (kept is second) is has_second
    assert left == (weights if has_second else {0: 0.5, 1: 0.5})


@pytest.mark.parametrize(
    ("family", "growth"), [("ExtraTrees", 5000 / 3500), ("XGBoost", 1.0), ("CatBoost", LEAN_BYTES["CatBoost"])]
)
def test_a_refit_of_trees_is_larger_than_a_fold_s_model(family, growth):
    """It learns from the hold-out too: 5,000 rows for 3,500. A booster has as many rounds either way, some told in fewer digits."""
    shop, members = make_members(0.3, 0.3)
    members[0].record.family, members[0].record.size_bytes = family, 10_000
    members[1].record.family = "TabM"  # slow, so that the sizes are what decides
    selection = SimpleNamespace(weights={0: 0.5, 1: 0.5}, second=None)
    built = SimpleNamespace(candidates=members, selection=selection, files=())

    assert leanness_of(shop, built).leaner({0: 1.0}) == pytest.approx(
        (10_000 + 1_000) / (10_000 / 8 * growth), rel=1e-6
    )


def test_what_is_on_disk_counts_and_not_the_archive(tmp_path):
    """Which pads small files."""
    shop, members = make_members(0.3, 0.3, folds=24, family="XGBoost")
    selection = SimpleNamespace(weights={0: 0.5, 1: 0.5}, second=None)
    files = []
    for number, size in ((0, 1000), (1, 10)):
        folders = [tmp_path / f"{number}-{fold}" for fold in range(24)]
        for folder in folders:
            folder.mkdir()
            (folder / "model").write_bytes(b"m" * size)
        files.append(SimpleNamespace(trial=number, folders=tuple(folders)))
    built = SimpleNamespace(candidates=members, selection=selection, files=tuple(files))

    than = leanness_of(shop, built)

    assert than.leaner({0: 1.0}) == pytest.approx(1010 * 24 / 1000)
    fitted = {
        0: [Single(tmp_path / "0-0", np.zeros(0), 1.0, True)],
        1: [Single(tmp_path / "0-1", np.zeros(0), 1.0, False)],
    }
    (tmp_path / "0-0" / "more").write_bytes(b"m" * 1000)
    assert as_fitted(than, fitted).leaner({0: 1.0}) == pytest.approx(1010 * 24 / 2000)
    assert as_fitted(than, fitted).leaner({1: 1.0}) == than.leaner({1: 1.0})


@pytest.mark.parametrize(("refit_bytes", "kept"), [({1: 200.0}, {0, 1}), ({1: 310.0}, {0})])
def test_a_member_whose_refit_came_out_large_goes_where_that_loses_little(refit_bytes, kept):
    """By its folds' sizes, 33 bytes, the model was lean: 30 times smaller; by the refit's it is so 8 times, or 5.8 times."""
    shop, members = make_members(0.3, 0.3, folds=24)
    weights = {0: 0.9955, 1: 0.0045}

    left = lean_weights(shop, Leanness(members, weights, refit_bytes=refit_bytes), weights, UNLIMITED)

    assert set(left) == kept


def test_the_fixed_costs_know_every_family():
    """A family whose cost for a row was never measured would be taken for a middling one."""
    assert {f.name for f in (*EVERY_FAMILY, *PRETRAINED_FAMILIES)} == set(ROW_MS)


def test_many_folds_leave_room_for_more_than_one_refit():
    """Where chance has a part in a fit; as many as stay fast enough, the heaviest member first."""
    _, members = make_members(0.3, 0.3, folds=24)
    members[1].record.family = "SupportVectors"
    weights = {0: 0.5, 1: 0.5}

    assert copies_of(Leanness(members, weights), weights) == {0: 3, 1: 1}
    assert copies_of(Leanness(make_members(0.3, folds=8)[1], {0: 1.0}), {0: 1.0}) == {0: 1}
    assert copies_of(Leanness(make_members(0.3, 0.3, folds=14)[1], weights), weights) == {0: 2, 1: 1}
    assert copies_of(Leanness(make_members(0.3, 0.3, folds=8)[1], weights), weights) == {0: 1, 1: 1}
