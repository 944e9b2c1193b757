"""What a trial will take, from those that have ended."""

from __future__ import annotations

import pytest
from optuna.trial import TrialState

from kubeautoml_trainer.search.cost import DOUBT, POWERS, Costs, learn_costs
from kubeautoml_trainer.search.plan import Entry
from kubeautoml_trainer.search.relative import relative_cost
from search.trials import make_trial

FOLDS = 8


def test_without_trials_nothing_is_known():
    """And nobody pretends to."""
    assert Costs().of(Entry("A", {})) is None


def test_a_trial_with_more_rounds_is_expected_to_take_longer():
    """By the power of the table, until there is evidence."""
    costs = learn_costs([make_trial(0, value=1.0, seconds=10.0, iterations=100.0)], FOLDS)

    assert costs.of(Entry("A", {"iterations": 100})) == pytest.approx(10.0)
    assert costs.of(Entry("A", {"iterations": 400})) == pytest.approx(10.0 * 4 ** POWERS["iterations"])
    assert costs.of(Entry("A", {})) == pytest.approx(10.0)


def test_evidence_moves_the_power():
    """Here seconds do not depend on the learning rate at all; one trial that met a busy machine changes nothing."""
    rates = [0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1] * 4
    trials = [make_trial(i, value=1.0, seconds=2.0, learning_rate=rate) for i, rate in enumerate(rates)]
    trials[3] = make_trial(3, value=1.0, seconds=200.0, learning_rate=0.03)

    costs = learn_costs(trials, FOLDS)

    assert costs.of(Entry("A", {"learning_rate": 0.005})) == pytest.approx(2.0, rel=0.35)
    assert costs.of(Entry("A", {"learning_rate": 0.1})) == pytest.approx(2.0, rel=0.35)


def test_a_trial_that_was_cut_counts_as_if_it_had_run_all_folds():
    """One that failed says nothing; one that was repeated counts as much less."""
    cut = make_trial(0, state=TrialState.PRUNED, seconds=2.0, folds_done=2)
    failed = make_trial(1, "B", state=TrialState.FAIL, seconds=2.0)
    repeated = make_trial(2, "C", value=1.0, seconds=20.0, attrs={"work": 2.0})

    costs = learn_costs([cut, failed, repeated], FOLDS)

    assert (costs.of_family("A"), costs.of_family("C")) == (pytest.approx(8.0), pytest.approx(10.0))
    assert "B" not in costs.lines


def test_a_family_that_never_ran_is_guessed_from_those_that_did():
    """By the table of what families cost beside each other; half of it, since it is a guess."""
    costs = learn_costs([make_trial(0, value=1.0, seconds=3.0)], FOLDS)

    guess = costs.of_family("NeuralNetwork")

    assert guess == pytest.approx(DOUBT * 3.0 * relative_cost("NeuralNetwork") / relative_cost("A"))


@pytest.mark.parametrize("family", ["NeuralNetwork", "TabM", "CatBoost"])
def test_an_accelerator_makes_networks_cheaper_and_nothing_else(family: str):
    """Else trees of half a minute would keep a network of half a minute from its chance."""
    trials = [make_trial(0, value=1.0, seconds=30.0)]
    slow, fast = (learn_costs(trials, FOLDS, accelerated=a).of_family(family) for a in (False, True))

    assert slow is not None and fast is not None
    assert fast < slow / 3 if family != "CatBoost" else fast == slow
