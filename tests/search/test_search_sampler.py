"""Who proposes the next trial: the portfolio in order, then the optimiser, the same for the same seed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from kubeautoml.api.search import Sampler, SamplerType
from kubeautoml_trainer.models.space import Choice, Float, Int
from kubeautoml_trainer.search.allocation import Moment
from kubeautoml_trainer.search.evolution import EvolutionarySampler, mutated
from kubeautoml_trainer.search.plan import SearchPlan, search_plan
from kubeautoml_trainer.search.sampler import STARTUP, PortfolioSampler, auto, make_sampler
from kubeautoml_trainer.search.space import suggest
from search.fakes import FakeFamily, make_pod_job
from search.test_search_plan import SHAPE

TREE = FakeFamily(
    name="Tree",
    search_space={
        "depth": Int(1, 8),
        "rate": Float(0.01, 1.0, log=True),
        "kind": Choice(("a", "b")),
        "extra": Float(0.0, 1.0, when={"kind": "b"}),
    },
    entries=((0, {"depth": 3}),),
)
NET = FakeFamily(name="Net", search_space={"width": Int(8, 64, step=8), "drop": Float(0.0, 0.5)}, entries=())
CONSTANT = FakeFamily(name="Constant", search_space={}, entries=((0, {}),))
FAMILIES = (CONSTANT, TREE, NET)


@pytest.fixture
def plan(tmp_path) -> SearchPlan:
    return search_plan(make_pod_job(tmp_path), SHAPE, families=FAMILIES)


def loss(family: str, parameters: dict[str, Any]) -> float:
    """Smallest in family Tree at rate 0.1 and depth 6."""
    if family == "Tree":
        return abs(math.log10(parameters.get("rate", 1.0)) + 1) + abs(parameters.get("depth", 1) - 6) / 8
    return 3.0 + parameters.get("drop", 0.0)


def search(plan: SearchPlan, kind: SamplerType, trials: int, seed: int = 1) -> optuna.Study:
    """A whole search in one process, scored by `loss`."""
    sampler = PortfolioSampler(plan, make_sampler(Sampler(type=kind), plan), seed)
    study = optuna.create_study(sampler=sampler)
    for _ in range(trials):
        trial = study.ask()
        number = sampler.entry_number(study, trial._get_latest_trial())
        entry = suggest(trial, plan, None if number is None else plan.portfolio[number])
        study.tell(trial, loss(entry.family, dict(entry.parameters)))
    return study


KINDS = [k for k in SamplerType if k is not SamplerType.GRID]


@pytest.mark.parametrize("kind", KINDS)
def test_the_portfolio_comes_first_and_what_follows_lies_in_the_space(plan, kind):
    """Each family's parameters only, conditional ones only where they apply, a constant family never again."""
    study = search(plan, kind, STARTUP + 20)

    first, *rest = [t.params for t in study.trials[1:]]
    assert study.trials[0].params == {"family": "Constant"}
    assert first == {"family": "Tree", "Tree.depth": 3}
    for params in rest:
        wanted = {"Tree": {"Tree.depth", "Tree.rate", "Tree.kind"}, "Net": {"Net.width", "Net.drop"}}[params["family"]]
        wanted |= {"Tree.extra"} if params.get("Tree.kind") == "b" else set()
        assert params.keys() == {"family"} | wanted


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_finds_the_same_trials_again_and_another_seed_others(plan, kind):
    """A worker alone repeats its search exactly."""
    first, again, other = (search(plan, kind, STARTUP + 6, seed) for seed in (1, 1, 2))

    assert [t.params for t in first.trials] == [t.params for t in again.trials]
    assert [t.params for t in first.trials[2:]] != [t.params for t in other.trials[2:]]


@pytest.mark.parametrize(
    ("kind", "trials"),
    [(SamplerType.TPE, 50), (SamplerType.GP, 24), (SamplerType.CMA_ES, 50), (SamplerType.EVOLUTIONARY, 50)],
)
def test_an_optimiser_learns_what_chance_does_not(tmp_path, kind, trials):
    """In a family's numeric space its last trials are better than random ones; mean of three seeds."""
    flat = FakeFamily(name="Tree", search_space={"depth": Int(1, 8), "rate": Float(0.01, 1.0, log=True)}, entries=())
    plan = search_plan(make_pod_job(tmp_path), SHAPE, families=(flat,))

    def reached(kind: SamplerType) -> float:
        late = [t.value for s in (1, 2, 3) for t in search(plan, kind, trials, s).trials[-8:]]
        return float(np.mean(late))

    assert reached(kind) < 0.7 * reached(SamplerType.RANDOM)


def test_auto_takes_a_gaussian_process_only_for_one_small_numeric_space(tmp_path, plan):
    """Everything conditional goes to TPE."""
    flat = search_plan(make_pod_job(tmp_path), SHAPE, families=(NET,))

    assert [auto(plan, 0), auto(flat, 0), auto(flat, 250)] == [SamplerType.TPE, SamplerType.GP, SamplerType.TPE]


def test_two_trials_asked_for_at_once_differ(tmp_path):
    """Two pods with one seed and the same history draw different numbers."""
    plan = search_plan(make_pod_job(tmp_path), SHAPE, families=(NET,))
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(storage=storage, study_name="s")
    pods = [
        optuna.load_study(
            storage=storage,
            study_name="s",
            sampler=PortfolioSampler(plan, make_sampler(Sampler(type=SamplerType.TPE), plan), 1),
        )
        for _ in range(2)
    ]

    entries = [suggest(pod.ask(), plan, None) for pod in pods]

    assert entries[0] != entries[1]


def test_retries_do_not_shift_the_portfolio(plan):
    """A retry repeats its own entry, even if it was lost before it said which; the next trial takes the next entry."""
    sampler = PortfolioSampler(plan, make_sampler(Sampler(type=SamplerType.RANDOM), plan), 1)
    study = optuna.create_study(sampler=sampler)

    def entry(trial: optuna.Trial) -> int | None:
        return sampler.entry_number(study, trial._get_latest_trial())

    lost = study.ask()
    study.tell(lost, state=TrialState.FAIL)
    study.enqueue_trial({}, user_attrs={"retry_of": 0, "attempt": 2})

    assert [entry(t) for t in (lost, study.ask(), study.ask(), study.ask())] == [0, 0, 1, None]


def test_families_without_time_are_passed_over(plan):
    """Neither their portfolio entries are run nor are they sampled; the cheap constant always is."""
    sampler = PortfolioSampler(plan, make_sampler(Sampler(type=SamplerType.RANDOM), plan), 1)
    study = optuna.create_study(sampler=sampler)
    sampler.allow(Moment(("Net",)))

    families = []
    for _ in range(8):
        trial = study.ask()
        number = sampler.entry_number(study, trial._get_latest_trial())
        families.append(suggest(trial, plan, None if number is None else plan.portfolio[number]).family)

    assert families == ["Constant"] + ["Net"] * 7


@pytest.mark.parametrize(
    "space",
    [
        FloatDistribution(0.01, 1.0, log=True),
        FloatDistribution(-1.0, 1.0),
        IntDistribution(8, 64, step=8),
        IntDistribution(1, 100, log=True),
        CategoricalDistribution(("a", "b", "c")),
    ],
)
def test_a_mutation_stays_in_the_range_and_moves(space):
    """Whole numbers keep their step."""
    rng = np.random.default_rng(0)
    start = space.choices[0] if isinstance(space, CategoricalDistribution) else space.high

    found = [mutated(start, space, rng) for _ in range(200)]

    assert all(space._contains(space.to_internal_repr(v)) for v in found)
    assert len(set(found)) > 2
    if isinstance(space, IntDistribution):
        assert all(isinstance(v, int) and (v - space.low) % space.step == 0 for v in found)


def test_a_wide_study_keeps_its_parameters_below_the_familys_name(tmp_path):
    """Two families may have a parameter of one name."""
    twin = FakeFamily(name="Twin", search_space=TREE.search_space, entries=())
    plan = search_plan(make_pod_job(tmp_path), SHAPE, families=(TREE, twin))

    study = search(plan, SamplerType.RANDOM, 30)

    assert {name.partition(".")[0] for t in study.trials for name in t.params} == {"family", "Tree", "Twin"}


def bred(plan: SearchPlan, trials: int, seed: int, **wanted: int) -> optuna.Study:
    """An evolution in one process, scored by `loss`."""
    chosen = Sampler(type=SamplerType.EVOLUTIONARY, **wanted)
    sampler = PortfolioSampler(plan, make_sampler(chosen, plan), seed)
    study = optuna.create_study(sampler=sampler)
    for _ in range(trials):
        trial = study.ask()
        entry = suggest(trial, plan, sampler.fixed_entry(study, trial._get_latest_trial()))
        study.tell(trial, loss(entry.family, dict(entry.parameters)))
    return study


def test_a_population_is_drawn_by_chance_and_its_generations_get_better(plan):
    """With a number of generations the first population is complete before anything is bred."""
    by_chance = search(plan, SamplerType.RANDOM, 20).trials
    found = bred(plan, 60, 1, population=20, generations=2).trials

    assert [t.params for t in found[2:20]] == [t.params for t in by_chance[2:20]]
    means = [float(np.mean([t.value for t in found[first : first + 20]])) for first in (0, 20, 40)]
    assert means[0] > means[1] > means[2]


def test_a_small_population_is_greedier_than_a_large_one(plan):
    """Parents are the best of so many only."""
    late = {
        size: np.mean([t.value for s in (1, 2, 3) for t in bred(plan, 80, s, population=size).trials[-20:]])
        for size in (4, 1000)
    }

    assert late[4] < late[1000]


def test_children_cross_parameters_of_one_family_and_change_to_others(plan):
    """Crossover takes each value from one of two parents of a family; a mutation may be another family."""
    study = bred(plan, 300, 3, population=30)
    families = [t.params["family"] for t in study.trials[60:]]

    assert {"Tree", "Net"} <= set(families)
    assert families.count("Tree") > families.count("Net")
    sampler = EvolutionarySampler(5, population=30)
    children = [sampler._breed(study) for _ in range(400)]
    parents = [t.params for t in study.trials]
    crossed = [c for c in children if c and c not in parents]
    assert crossed
    for child in crossed:
        kin = [p for p in parents if p["family"] == child["family"]]
        assert all(any(p.get(name) == value for p in kin) for name, value in child.items())
