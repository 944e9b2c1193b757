"""Which family the next trial comes from: gain for the time, without forgetting the others."""

from __future__ import annotations

from collections import Counter

from optuna.trial import TrialState

from kubeautoml_trainer.search.allocation import Moment, choose_family
from kubeautoml_trainer.search.cost import learn_costs
from search.trials import make_trial

TIMED = 100.0


def shares(trials, moment: Moment, draws: int = 400, maximize: bool = True) -> Counter[str]:
    """How often each family is drawn, over seeds."""
    return Counter(choose_family(trials, moment, seed, maximize=maximize) for seed in range(draws))


def moment_of(trials, families=("A", "B"), left: float | None = TIMED, **most: int) -> Moment:
    return Moment(families, left, learn_costs(trials, 8), most)


def test_of_equal_gains_the_faster_family_gets_more_trials():
    """Gain is counted by the second."""
    trials = [make_trial(i, "AB"[i % 2], 0.5 + 0.01 * i, seconds=(1.0, 4.0)[i % 2]) for i in range(8)]

    found = shares(trials, moment_of(trials))

    assert found["A"] > 3 * found["B"] > 0


def test_a_family_that_goes_on_improving_is_preferred_to_one_that_is_used_up():
    """Though both take as long, and the other one is the best so far."""
    rising = [make_trial(2 * i, "A", 0.5 + 0.02 * i) for i in range(10)]
    flat = [make_trial(2 * i + 1, "B", 0.55 if i else 0.7) for i in range(10)]
    trials = [*rising, *flat]

    assert shares(trials, moment_of(trials))["A"] > 0.55 * 400
    down = [make_trial(t.number, t.params["family"], 1.0 - t.value) for t in trials]
    assert shares(down, moment_of(down), maximize=False) == shares(trials, moment_of(trials))


def test_a_family_far_behind_is_hardly_drawn_but_never_lost():
    """What improves upon itself without coming near the best helps nobody."""
    trials = [make_trial(2 * i, "A", 0.9 + 0.001 * i) for i in range(8)]
    trials += [make_trial(2 * i + 1, "B", 0.1 + 0.001 * i) for i in range(8)]

    found = shares(trials, moment_of(trials))

    assert found["A"] > 2 * found["B"] > 0


def test_trials_that_were_stopped_are_time_without_gain():
    """A family whose trials are all pruned loses its share."""
    trials = [make_trial(i, "A", 0.9 + 0.001 * i) for i in range(5)]
    trials += [make_trial(5 + i, "B", state=TrialState.PRUNED) for i in range(5)]

    found = shares(trials, moment_of(trials))

    assert found["A"] > 2 * found["B"]


def test_without_a_time_budget_measured_times_change_nothing():
    """The same seed must find the same trials again on a machine of another speed."""
    slow = [make_trial(i, "AB"[i % 2], 0.5 + 0.01 * i, seconds=30.0 * (i % 2) + 1) for i in range(8)]
    fast = [make_trial(i, "AB"[i % 2], 0.5 + 0.01 * i, seconds=0.1) for i in range(8)]

    assert shares(slow, moment_of(slow, left=None)) == shares(fast, moment_of(fast, left=None))
    assert shares(slow, moment_of(slow)) != shares(fast, moment_of(fast))


def test_a_family_where_tuning_hardly_pays_gets_its_few_trials():
    """Portfolio entries do not count; when all are used up, all are open again."""
    trials = [make_trial(0, "A", 0.9, attrs={"portfolio": 0}), make_trial(1, "A", 0.91), make_trial(2, "A", 0.92)]

    assert set(shares(trials, moment_of(trials, A=2))) == {"B"}
    assert "A" in shares(trials, moment_of(trials, A=3))
    assert set(shares(trials, moment_of(trials, ("A",), A=2))) == {"A"}
