"""What a job searches, and the sentence when the manifest asks for what there is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import DataError
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.models import FAMILIES
from kubeautoml_trainer.models.base import DataShape
from kubeautoml_trainer.models.space import Choice, Float, Int
from kubeautoml_trainer.search.plan import BALANCED_RANK, LARGE_CELLS, Entry, search_plan
from search.fakes import FakeFamily, make_pod_job

SHAPE = DataShape(TaskType.TABULAR_REGRESSION, rows=1000, features=3, categories=1, texts=0, outputs=1)


def plan_of(tmp_path, known=FAMILIES, warm=(), **search):
    return search_plan(make_pod_job(tmp_path, **search), SHAPE, warm, known)


def range_of(name="rate", when=None, **kind):
    return {"name": name, "when": {"family": "Fake", **(when or {})}, **kind}


def test_all_families_for_such_data_take_part_and_the_cheapest_comes_first(tmp_path):
    """The portfolio is in the order of the ranks over all families."""
    plan = plan_of(tmp_path)

    assert tuple(plan.families) == tuple(f.name for f in FAMILIES if f.fits(SHAPE))
    assert [e.family for e in plan.portfolio[:2]] == ["Dummy", "Linear"]
    assert "Dummy" not in plan.searchable


def test_presets_narrow_families_and_portfolio(tmp_path):
    """Interpretable keeps what a person can read; Fast only the first entries; Best all of them."""
    lengths = {p: len(plan_of(tmp_path, preset=p).portfolio) for p in ("Fast", "Balanced", "Best")}

    assert lengths["Fast"] < lengths["Balanced"] < lengths["Best"]
    assert set(plan_of(tmp_path, preset="Interpretable").families) == {
        f.name for f in FAMILIES if f.interpretable and f.fits(SHAPE)
    }


def test_every_family_has_an_entry_whatever_its_rank(tmp_path):
    """Balanced leaves out slow entries, but none of the families: what is never tried is never known."""
    quick = FakeFamily(name="Quick", entries=((1, {"rate": 0.1}), (BALANCED_RANK + 1, {"rate": 0.2})))
    late = FakeFamily(name="Late", entries=((BALANCED_RANK + 2, {"rate": 0.3}), (BALANCED_RANK + 3, {"rate": 0.4})))

    plan = plan_of(tmp_path, (quick, late))

    assert [(e.family, e.parameters["rate"]) for e in plan.portfolio] == [("Quick", 0.1), ("Late", 0.3)]


@pytest.mark.parametrize("rows", [1000, 30_000, 300_000])
@pytest.mark.parametrize("task", [TaskType.TABULAR_REGRESSION, TaskType.TABULAR_CLASSIFICATION])
def test_with_an_accelerator_a_network_comes_right_behind_the_first_trees(tmp_path, task, rows):
    """There it takes no longer than they do, and it must have its turn in a minute, also on large data."""
    shape = replace(SHAPE, task=task, outputs=2 if task.is_classification else 1, rows=rows, features=30)
    job = make_pod_job(tmp_path)

    slow, fast = (search_plan(job, replace(shape, accelerated=a)) for a in (False, True))

    first = [
        plan.portfolio.index(next(e for e in plan.portfolio if e.family == "NeuralNetwork")) for plan in (slow, fast)
    ]
    trees = next(k for k, e in enumerate(fast.portfolio) if e.family == "LightGBM")
    assert first[1] < first[0] and first[1] <= trees + 2
    assert (slow.accelerated, fast.accelerated) == (False, True)


def test_on_large_data_the_cheap_families_come_first(tmp_path):
    """One entry of each family, then the second ones: no slow family may take the whole budget before there is a model."""
    families = (
        FakeFamily(name="CatBoost", entries=((1, {"rate": 0.1}), (2, {"rate": 0.2}))),
        FakeFamily(name="LightGBM", entries=((3, {"rate": 0.3}), (4, {"rate": 0.4}))),
    )
    large = replace(SHAPE, rows=LARGE_CELLS // SHAPE.features + 1)

    plan = search_plan(make_pod_job(tmp_path), large, families=families)

    assert [e.parameters["rate"] for e in plan.portfolio] == [0.3, 0.1, 0.4, 0.2]
    assert [e.parameters["rate"] for e in plan_of(tmp_path, families).portfolio] == [0.1, 0.2, 0.3, 0.4]


def test_a_family_where_tuning_hardly_pays_has_few_tuned_trials(tmp_path):
    """Unless most columns are categories, which are what it is good at."""
    families = (FakeFamily(name="CatBoost"), FakeFamily())

    assert plan_of(tmp_path, families).most_trials == {"CatBoost": 2}
    categorical = replace(SHAPE, categories=2)
    assert search_plan(make_pod_job(tmp_path), categorical, families=families).most_trials == {}


def test_a_users_range_replaces_the_familys_and_its_entries(tmp_path):
    """Values come in the parameter's own type; a condition puts the parameter last."""
    ranges = [
        range_of(float={"min": "0.2", "max": "0.4"}, when={"kind": "b"}),
        range_of("size", int={"min": 2, "max": 8, "step": 2}),
        range_of("kind", categorical={"choices": ["b"]}),
    ]

    plan = plan_of(tmp_path, (FakeFamily(),), parameters=ranges)

    assert list(plan.spaces["Fake"].items()) == [
        ("size", Int(2, 8, step=2)),
        ("kind", Choice(("b",))),
        ("rate", Float(0.2, 0.4, when={"kind": "b"})),
    ]
    assert plan.portfolio == ()


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (
            {"families": {"include": ["LightGMB"]}},
            "spec.search.families must be one of Fake, LightGBM, got 'LightGMB'; did you mean LightGBM?",
        ),
        (
            {"families": {"exclude": ["Fake", "LightGBM"]}},
            "spec.search leaves no model family (preset Balanced, include [], exclude ['Fake', 'LightGBM'], 1000 rows); families: Fake, LightGBM",
        ),
        (
            {"parameters": [range_of("rates", float={"min": "1", "max": "2"})]},
            "spec.search.parameters: Fake has no parameter 'rates'; did you mean rate?; it has rate, size, kind",
        ),
        (
            {"parameters": [range_of(when={"kid": "b"}, float={"min": "1", "max": "2"})]},
            "spec.search.parameters: Fake has no parameter 'kid'; did you mean kind?; it has rate, size, kind",
        ),
        (
            {"parameters": [range_of("size", float={"min": "1", "max": "2"})]},
            "spec.search.parameters: size of Fake is a whole number; give int instead of float",
        ),
        (
            {"parameters": [range_of("kind", int={"min": 1, "max": 2})]},
            "spec.search.parameters: kind of Fake must be categorical, one of a, b",
        ),
        (
            {"parameters": [range_of("kind", categorical={"choices": ["c"]})]},
            "spec.search.parameters: kind of Fake must be one of a, b, got 'c'",
        ),
        (
            {"parameters": [range_of(categorical={"choices": ["high"]})]},
            "spec.search.parameters: rate of Fake must be a number, got 'high'",
        ),
        (
            {"parameters": [range_of(float={"min": "1", "max": "2"}), range_of(float={"min": "1", "max": "3"})]},
            "spec.search.parameters must name rate of Fake once, got it twice",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_with_the_nearest_name(tmp_path, search, message):
    """The reason is InvalidSearch; the message names field, rule and value."""
    with pytest.raises(DataError) as error:
        plan_of(tmp_path, (FakeFamily(), FakeFamily(name="LightGBM")), **search)

    assert str(error.value) == message
    assert error.value.reason == Reason.INVALID_SEARCH


def test_entries_of_earlier_jobs_come_first_if_their_family_takes_part(tmp_path):
    """An entry that stands in the portfolio anyway is not tried twice."""
    warm = [Entry("Gone", {}), Entry("Fake", {"rate": 0.3}), Entry("Fake", {"rate": 0.1})]

    plan = plan_of(tmp_path, (FakeFamily(),), warm)

    assert [e.parameters.get("rate") for e in plan.portfolio] == [0.3, 0.1, 0.5]


def test_a_grid_holds_every_combination_once_in_the_same_order_everywhere(tmp_path):
    """Three values of a range, all choices; conditional parameters only where they apply."""
    space = {"rate": Float(0.01, 1.0, log=True), "kind": Choice(("a", "b")), "depth": Int(1, 2, when={"kind": "b"})}
    family = FakeFamily(search_space=space)

    plan = plan_of(tmp_path, (family,), sampler={"type": "Grid"})

    found = sorted(
        (e.parameters["kind"], e.parameters.get("depth", 0), round(e.parameters["rate"], 9)) for e in plan.portfolio
    )
    assert found == [(kind, d, r) for kind, d in (("a", 0), ("b", 1), ("b", 2)) for r in (0.01, 0.1, 1.0)]
    assert plan.only_portfolio
    assert plan.portfolio == plan_of(tmp_path, (family,), sampler={"type": "Grid"}).portfolio


def test_a_huge_grid_is_cut_to_a_sample_of_all_of_it(tmp_path):
    """Every value of every parameter still occurs."""
    space = {f"p{i}": Int(0, 2) for i in range(12)}

    plan = plan_of(tmp_path, (FakeFamily(search_space=space),), sampler={"type": "Grid"})

    assert len(plan.portfolio) == 10_000
    assert all({e.parameters[name] for e in plan.portfolio} == {0, 1, 2} for name in space)


def test_families_without_parameters_leave_nothing_to_sample(tmp_path):
    """Only the portfolio is run, and then the search is exhausted."""
    assert plan_of(tmp_path, (FakeFamily(search_space={}),)).only_portfolio
    assert not plan_of(tmp_path, (FakeFamily(),)).only_portfolio
