"""Hopeless trials are stopped, but never the first ones nor a family's only one."""

from __future__ import annotations

import optuna
import pytest
from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner, WilcoxonPruner
from optuna.trial import TrialState

from kubeautoml.api.search import PrunerType
from kubeautoml_trainer.search.pruner import MercifulPruner, TwoFoldPruner, make_pruner

FOLDS = 8


@pytest.mark.parametrize(
    ("kind", "folds", "expected"),
    [
        ("Auto", 8, TwoFoldPruner),
        ("Auto", 3, TwoFoldPruner),
        ("Auto", 2, NopPruner),
        ("Wilcoxon", 8, WilcoxonPruner),
        ("None", 8, NopPruner),
        ("Median", 3, MedianPruner),
        ("Wilcoxon", 3, WilcoxonPruner),
        ("Hyperband", 8, HyperbandPruner),
        ("Wilcoxon", 1, NopPruner),
    ],
)
def test_the_manifest_chooses_the_pruner(kind, folds, expected):
    """Auto needs three folds, since of two there is nothing left to save."""
    assert type(make_pruner(PrunerType(kind), folds)) is expected


def make_study(completed: int, kind: PrunerType = PrunerType.AUTO) -> optuna.Study:
    """Trials of family A with a loss of 1 in all folds."""
    study = optuna.create_study(pruner=MercifulPruner(make_pruner(kind, FOLDS)))
    for _ in range(completed):
        run_trial(study, "A", 1.0)
    return study


def run_trial(study: optuna.Study, family: str, loss: float, **attrs: int) -> int:
    """Folds until the trial was pruned; FOLDS when it came through."""
    study.enqueue_trial({"family": family})
    trial = study.ask()
    trial.suggest_categorical("family", ["A", "B"])
    for name, value in attrs.items():
        trial.set_user_attr(name, value)
    for fold in range(FOLDS):
        trial.report(loss + 0.001 * fold, fold)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return fold + 1
    study.tell(trial, loss)
    return FOLDS


def test_a_trial_worse_in_every_fold_is_stopped_early():
    """After a few folds the rank test is sure."""
    assert run_trial(make_study(6), "A", 9.0) < FOLDS


def test_an_equal_or_better_trial_comes_through():
    """It could become the best."""
    assert run_trial(make_study(6), "A", 0.9) == FOLDS


def test_the_first_trial_of_a_family_comes_through_however_bad():
    """An ensemble lives on different models."""
    assert run_trial(make_study(6), "B", 9.0) == FOLDS


def race(values: list[float], others: list[list[float]], direction: str = "minimize") -> bool:
    """Whether a trial with these fold values is stopped after the last of them, by Auto, beside completed ones."""
    study = optuna.create_study(direction=direction, pruner=make_pruner(PrunerType.AUTO, FOLDS))
    for other in others:
        trial = study.ask()
        for fold, value in enumerate(other):
            trial.report(value, fold)
        study.tell(trial, other[0])
    trial = study.ask()
    for fold, value in enumerate(values):
        trial.report(value, fold)
    return bool(trial.should_prune())


def test_after_two_folds_a_trial_that_most_others_beat_in_both_is_stopped():
    """Neither after one, nor when it beats half of them in one of the two, nor before there are six."""
    others = [[1.0 + 0.1 * i, 2.0 + 0.1 * i] for i in range(6)]

    assert race([1.35, 2.35], others)
    assert not race([1.35], others)
    assert not race([1.35, 1.5], others)
    assert not race([1.15, 2.15], others)
    assert not race([1.35, 2.35], others[:5])
    assert race([0.5, 0.5], [[0.9, 0.9]] * 6, "maximize")
    assert not race([0.95, 0.5], [[0.9, 0.9]] * 6, "maximize")


@pytest.mark.parametrize("kind", [PrunerType.WILCOXON, PrunerType.MEDIAN])
def test_a_trial_is_compared_with_its_own_family_only(kind):
    """Worse than all of A, but as good as the others of B."""
    study = make_study(6, kind)
    for _ in range(6):
        run_trial(study, "B", 9.0)

    assert run_trial(study, "B", 8.9) == FOLDS
    assert run_trial(study, "B", 12.0) < FOLDS


def test_hyperband_runs_over_folds():
    """Some of many trials that get worse and worse are stopped."""
    study = make_study(6, PrunerType.HYPERBAND)

    assert min(run_trial(study, "A", 2.0 + i) for i in range(12)) < FOLDS


def test_the_portfolio_is_spared_until_five_trials_are_complete():
    """Before, there is nothing fair to compare it with."""
    assert run_trial(make_study(4), "A", 9.0, portfolio=3) == FOLDS
    assert run_trial(make_study(5), "A", 9.0, portfolio=3) < FOLDS


def test_without_a_pruner_nothing_needs_to_be_reported():
    """Reports are writes to the database."""
    assert not MercifulPruner(make_pruner(PrunerType.NONE, FOLDS)).is_active
    assert MercifulPruner(make_pruner(PrunerType.AUTO, FOLDS)).is_active
