"""retention.keepTrialArtifacts: what of the trials stays when the model is stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bundle.bundle_factories import titanic
from finalize.finalize_factories import Searched, make_searched
from kubeautoml.api.trials import StudyAttr
from kubeautoml.study import read_limits, set_study_attr
from kubeautoml_trainer import finalize as finalizer
from kubeautoml_trainer.bundle import load_bundle


def trials_left(searched: Searched) -> set[int]:
    """Numbers of the trials that still have any file."""
    root = searched.paths.root + "/trials/"
    return {int(o.uri.removeprefix(root).split("/")[0]) for o in searched.store.find(root)}


def run_command(searched: Searched, monkeypatch: pytest.MonkeyPatch, *, keep: int | None) -> int:
    limits = read_limits(searched.study)
    assert limits is not None
    set_study_attr(searched.study, StudyAttr.LIMITS, replace(limits, keep_trial_artifacts=keep))
    for name, value in searched.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(finalizer, "log_to_stderr", lambda: None)
    return finalizer.main([])


def test_the_best_trials_stay_and_the_model_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of five trials the best two keep their files; the model predicts as before from its own copy."""
    searched = make_searched(tmp_path)
    values = {t.number: t.value for t in searched.study.trials}
    best_two = set(sorted(values, key=lambda n: -values[n])[:2])

    assert run_command(searched, monkeypatch, keep=2) == 0

    assert trials_left(searched) == best_two
    predicted = load_bundle(searched.paths.model).predict_proba(titanic().head(5))
    assert np.isfinite(predicted).all()


def test_a_finalizer_killed_before_it_had_cleaned_cleans_when_it_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The result is there already; nothing is made anew, and the files still go."""
    searched = make_searched(tmp_path)
    result = finalizer.finalize(searched.context, searched.study)
    assert len(trials_left(searched)) == 5

    assert run_command(searched, monkeypatch, keep=0) == 0

    assert trials_left(searched) == set()
    assert load_bundle(result.model_uri, sha256=result.sha256).sha256 == result.sha256


def test_without_a_limit_all_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As on a laptop."""
    searched = make_searched(tmp_path)

    assert run_command(searched, monkeypatch, keep=None) == 0

    assert trials_left(searched) == {0, 1, 2, 3, 4}
