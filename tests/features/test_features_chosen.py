"""Features chosen for their use: what they find, what they must not see, and what they survive."""

from dataclasses import replace

import numpy as np
import pytest
from tests.features.making import make_rows, make_schema, positions, words

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Rows
from kubeautoml_trainer.features import Recipe, fit_features, load_features
from kubeautoml_trainer.features.cache import FeatureCache
from kubeautoml_trainer.features.groups import MEAN
from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.models.lightgbm import RECIPES
from kubeautoml_trainer.tasks import task_for

ACT = Recipe(categories="joined", **RECIPES["ACT"])
ALL = replace(
    ACT, scaling="skew", categories="onehot", indicators=True, cyclic=True, calendar=True, polynomial=True,
    keep_share=0.8,
)  # fmt: skip


def mixed(n: int, seed: int = 0) -> Rows:
    """Numbers, categories, dates, texts with gaps; the target is a product, a cross and a place within a group."""
    rng = np.random.default_rng(seed)
    a, b, c = rng.normal(size=n), rng.normal(size=n), rng.lognormal(size=n)
    u, v = words(rng, 8, n), words(rng, 12, n)
    joint = np.random.default_rng(99).normal(size=(8, 12))
    y = a * b + joint[positions(u), positions(v)] + 0.3 * rng.normal(size=n)
    gaps = np.where(rng.random(n) < 0.1, np.nan, c)
    start = rng.uniform(-3e9, 2e9, n)
    texts = rng.choice(np.array(["red fox", "Blue WHALE 42!", None], dtype=object), n)
    columns = {"a": a, "b": b, "c": gaps, "u": u, "v": v, "start": start, "end": start + rng.uniform(0, 1e7, n)}
    return make_rows(y=y, **columns, text=texts)


def schema_of(rows: Rows):
    kinds = {"start": ColumnType.DATETIME, "end": ColumnType.DATETIME, "text": ColumnType.TEXT}
    return make_schema(rows, classes=0, **{k: v for k, v in kinds.items() if k in rows.frame})


def test_products_crosses_and_groups_are_found():
    """The made features hold the effects that were put in."""
    rng = np.random.default_rng(1)
    n = 3_000
    a, b = rng.normal(size=n), rng.normal(size=n)
    u, v, g = words(rng, 8, n), words(rng, 8, n), words(rng, 40, n)
    size = rng.normal(size=n) + 10 * rng.normal(size=40)[positions(g)]
    joint = rng.normal(size=(8, 8))
    within = size - np.array([size[positions(g) == k].mean() for k in range(40)])[positions(g)]
    y = a * b + joint[positions(u), positions(v)] + np.sign(within)
    rows = make_rows(y=y, a=a, b=b, size=size, u=u, v=v, g=g)

    features, _ = fit_features(ACT, rows, make_schema(rows, classes=0), seed=0)

    made = features.arithmetic
    assert {(0, 1)} <= {
        tuple(sorted((int(x), int(z)))) for x, z, k in zip(made.left, made.right, made.operation, strict=True) if k == 2
    }
    assert (0, 1) in set(zip(features.crosses.left.tolist(), features.crosses.right.tolist(), strict=True))
    within_g = (features.groups.column == 2) & (features.groups.number == 2)
    assert (within_g & (features.groups.kind > MEAN)).any()


def test_no_more_features_are_made_than_asked_for():
    """Nor the same one twice, where the target is random and any candidate is as good as another."""
    rng = np.random.default_rng(0)
    columns = {f"x{k}": rng.normal(size=1_000) for k in range(12)}
    rows = make_rows(y=rng.normal(size=1_000), **columns, u=words(rng, 6, 1_000), v=words(rng, 6, 1_000))
    recipe = Recipe(arithmetic=5, groups=3, crosses=1)

    features, _ = fit_features(recipe, rows, make_schema(rows, classes=0), seed=0)

    made = features.arithmetic
    assert len(set(zip(made.left, made.right, made.operation, strict=True))) == len(made.left) == 5
    assert len(features.groups.kind) == 3 and (features.crosses is None or len(features.crosses.start) == 1)


def test_what_a_number_says_alone_makes_no_feature():
    """A candidate must say more than its parents; a product with a constant does not."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=1_000)
    rows = make_rows(y=np.abs(a), a=a, b=np.where(np.arange(1_000) < 3, np.arange(1_000), 7.0))

    features, _ = fit_features(Recipe(arithmetic=5), rows, make_schema(rows, classes=0), seed=0)

    assert features.arithmetic is None or len(features.arithmetic.left) < 3


@pytest.mark.parametrize("recipe", [ACT, ALL], ids=["act", "all"])
def test_targets_of_other_rows_than_the_training_rows_change_nothing(recipe):
    """Features see the target of the rows they are fitted on, and of no other."""
    rows = mixed(600)
    schema, train = schema_of(rows), np.arange(600) < 400
    shuffled = rows.y.copy()
    shuffled[~train] = np.random.default_rng(5).permutation(shuffled[~train])

    one, two = (
        fit_features(recipe, Rows(rows.frame, y).take(train), schema, seed=0)[0].transform(rows.frame[~train])
        for y in (rows.y, shuffled)
    )

    assert np.array_equal(one.numbers, two.numbers, equal_nan=True)


def test_a_level_of_one_row_says_nothing_of_its_target():
    """Crosses and categories as fine as an identifier do not tell the training rows' targets."""
    rng = np.random.default_rng(0)
    n = 1_000
    rows = make_rows(y=rng.normal(size=n), u=words(rng, 40, n), v=words(rng, 40, n))
    recipe = Recipe(target_means_above=2, min_level_rows=1, crosses=4)

    _, encoded = fit_features(recipe, rows, make_schema(rows, classes=0), seed=0)

    assert max(abs(np.corrcoef(column, rows.y)[0, 1]) for column in encoded.numbers.T) < 0.15


@pytest.mark.parametrize("recipe", [ACT, ALL, replace(ACT, categories="strings")], ids=["act", "all", "strings"])
def test_made_features_survive_a_round_trip_and_come_out_again(recipe, tmp_path):
    """To the last bit; the same seed gives the same."""
    rows = mixed(500)
    features, _ = fit_features(recipe, rows, schema_of(rows), seed=3)
    again, _ = fit_features(recipe, rows, schema_of(rows), seed=3)

    features.save(tmp_path)
    loaded = load_features(tmp_path)

    assert features.arithmetic is not None and features.groups is not None and features.crosses is not None
    fresh = mixed(200, seed=1).frame
    expected = features.transform(fresh)
    for other in (loaded, again):
        assert np.array_equal(other.transform(fresh).numbers, expected.numbers, equal_nan=True)
    assert np.array_equal(loaded.transform(fresh).codes, expected.codes)


@pytest.mark.parametrize("recipe", [ACT, ALL], ids=["act", "all"])
def test_one_row_is_encoded_as_among_others(recipe):
    """Whatever stands beside it."""
    rows = mixed(500)
    features, _ = fit_features(recipe, rows, schema_of(rows), seed=0)

    together = features.transform(rows.frame.iloc[:20]).numbers
    alone = np.vstack([features.transform(rows.frame.iloc[k : k + 1]).numbers for k in range(20)])

    assert np.allclose(together, alone, rtol=1e-12, atol=1e-12, equal_nan=True)
    assert features.transform(rows.frame.iloc[:0]).numbers.shape == (0, together.shape[1])


def test_blocks_of_rows_give_what_single_rows_give():
    """Many rows are encoded in blocks; their training encoding has as many columns."""
    rows = mixed(70_000)
    rows = Rows(rows.frame[["a", "c", "u", "v"]], rows.y)
    features, encoded = fit_features(ACT, rows, schema_of(rows), seed=0)

    last = features.transform(rows.frame).numbers

    assert encoded.numbers.shape == last.shape
    assert np.array_equal(last[-5:], features.transform(rows.frame.iloc[-5:]).numbers, equal_nan=True)


@pytest.mark.parametrize("recipe", [ACT, ALL], ids=["act", "all"])
@pytest.mark.parametrize("n", [1, 2, 3, 40])
def test_few_rows_and_empty_columns_are_no_obstacle(recipe, n):
    """Columns without values, constants, levels of one row, huge and infinite numbers."""
    values = np.array([1e308, -1e308, np.inf, 1.0] * n)[:n]
    rows = make_rows(
        y=np.arange(n) % 2,
        nothing=np.full(n, np.nan), same=np.full(n, 3.0), huge=values, other=-values / 3,
        gone=np.array([None] * n, dtype=object), each=np.array([f"v{k}" for k in range(n)], dtype=object),
        two=np.array([f"w{k % 2}" for k in range(n)], dtype=object),
    )  # fmt: skip

    features, encoded = fit_features(recipe, rows, make_schema(rows), seed=0)

    assert encoded.numbers.shape == features.transform(rows.frame).numbers.shape
    assert not np.isinf(encoded.numbers).any()
    assert recipe.scaling == "none" or np.isfinite(encoded.numbers).all()


def test_unseen_levels_are_encoded_like_rare_ones():
    """A level, and a pair, that training did not have."""
    rows = mixed(800)
    features, _ = fit_features(ACT, rows, schema_of(rows), seed=0)
    one, two = rows.frame.iloc[:1].copy(), rows.frame.iloc[:1].copy()
    one["u"], two["u"] = ["never seen"], ["nor this"]

    assert np.array_equal(features.transform(one).numbers, features.transform(two).numbers, equal_nan=True)
    assert features.transform(one).codes[0, 0] == 1


def test_a_choice_without_time_makes_plain_features():
    """The deadline has passed: nothing is chosen, nothing fails."""
    rows = mixed(500)

    features, encoded = fit_features(ACT, rows, schema_of(rows), seed=0, deadline=0.0)

    assert features.arithmetic is None and features.crosses is None and len(encoded) == 500


@pytest.mark.parametrize(("effect", "made"), [("product", "A"), ("cross", "CT"), ("group", "A")])
def test_lightgbm_learns_sooner_with_made_features(effect, made):
    """In few rounds, what plain trees find late: a product, a cross of categories, a place within a group."""
    rng = np.random.default_rng(0)
    n = 2_000
    a, b, g = rng.normal(size=n), rng.normal(size=n), words(rng, 60, n)
    u, v = words(rng, 15, n), words(rng, 15, n)
    size = rng.normal(size=n) + 20 * rng.normal(size=60)[positions(g)]
    within = size - np.array([size[positions(g) == k].mean() for k in range(60)])[positions(g)]
    y = {"product": a * b, "cross": rng.normal(size=(15, 15))[positions(u), positions(v)], "group": within}[effect]
    rows = make_rows(y=y + 0.1 * rng.normal(size=n), a=a, b=b, size=size, g=g, u=u, v=v)
    train = np.arange(n) < 1_400
    task = task_for(TaskType.TABULAR_REGRESSION, make_schema(rows, classes=0))

    def error(features: str) -> float:
        family, context = family_named("LightGBM"), FitContext(task, "Rmse", 0, 1, np.inf)
        parameters = {"features": features, "iterations": 60, "learning_rate": 0.1}
        schema = make_schema(rows, classes=0)
        pipeline = family.fit(rows.take(train), None, schema, parameters, context)
        return float(np.mean((pipeline.predict(rows.frame[~train])[:, 0] - rows.y[~train]) ** 2))

    assert error(made) < 0.7 * error("none")


def test_the_cache_keeps_what_took_time_within_its_bytes():
    """The latest used stay; rows without a name are made anew each time; quick results are not kept."""
    features, encoded = fit_features(Recipe(), mixed(300), schema_of(mixed(300)), seed=0)
    ticks = iter(range(1_000))
    cache = FeatureCache(3 * encoded.numbers.nbytes, clock=lambda: next(ticks))
    calls: list[str] = []

    def ask(name: str | None) -> None:
        cache.of((name, None, None, 0), lambda: (calls.append(str(name)), (features, encoded))[1])

    for name in ("a", "b", "a", "c", "b", "a", None, None):
        ask(name)
    quick = FeatureCache(10**9, clock=lambda: 0.0)
    for _ in range(2):
        quick.of(("a", None, None, 0), lambda: (calls.append("quick"), (features, encoded))[1])

    assert calls == ["a", "b", "c", "b", "a", "None", "None", "quick", "quick"]
