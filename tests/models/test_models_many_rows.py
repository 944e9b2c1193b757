"""Many rows at once take another way through the trees than a few do, and come to the same."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import lightgbm as lgb
import numpy as np
import pytest
from sklearn import ensemble

from kubeautoml_trainer.features import Encoded
from kubeautoml_trainer.models import blocks, lightgbm_walk, tree_walker
from kubeautoml_trainer.models import trees as own_trees
from kubeautoml_trainer.models.blocks import by_shares, in_blocks
from kubeautoml_trainer.models.cores import threads_for
from kubeautoml_trainer.models.forest import Forest
from kubeautoml_trainer.models.gradient_boosting import BoostedTrees
from kubeautoml_trainer.models.lightgbm_scores import BoosterScores
from kubeautoml_trainer.models.target import NumberTarget
from kubeautoml_trainer.models.trees import flatten


def make_numbers(rows: int, columns: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns))


@pytest.fixture(scope="module")
def grown() -> ensemble.ExtraTreesRegressor:
    """Thirty trees down to single rows, and one that is a leaf."""
    x = make_numbers(1500)
    found = ensemble.ExtraTreesRegressor(30, random_state=0).fit(x, x[:, 0] * x[:, 1])
    stump = ensemble.ExtraTreesRegressor(1, max_leaf_nodes=None, min_samples_leaf=1500, random_state=0).fit(x, x[:, 0])
    found.estimators_.insert(7, stump.estimators_[0])
    return found


@pytest.mark.parametrize("rows", [1, 2, own_trees._FEW_ROWS, own_trees._FEW_ROWS + 1, 5000])
def test_each_row_reaches_the_leaf_that_scikit_learn_says(grown: ensemble.ExtraTreesRegressor, rows: int) -> None:
    """A few rows through all trees together, many through a few trees at a time."""
    trees, leaf = flatten([e.tree_ for e in grown.estimators_])
    x = make_numbers(rows, seed=1).astype(np.float32)

    found = trees.leaves(x)

    assert found.shape == (rows, 31)
    values = np.stack([e.tree_.predict(x)[:, 0] for e in grown.estimators_], axis=1)
    assert np.array_equal(leaf[found, 0], values)


def test_a_forest_says_the_same_with_any_number_of_threads(grown: ensemble.ExtraTreesRegressor) -> None:
    """To the bit: a block of rows is one thread's."""
    trees, leaf = flatten([e.tree_ for e in grown.estimators_])
    model = Forest(trees, leaf.astype(np.float32), None, "forest", np.array([0.1, 0.9]))
    x = Encoded(make_numbers(9000, seed=2), np.zeros((9000, 0), dtype=np.int32))

    alone = model.predict(x, 1)

    assert np.array_equal(model.predict(x, 3), alone)


def test_blocks_cover_all_rows_once_and_an_error_in_one_is_raised() -> None:
    """On one thread and on several."""
    for threads in (1, 4):
        seen = np.zeros(1001, dtype=int)
        in_blocks(1001, 100, threads, lambda part, seen=seen: seen.__setitem__(part, seen[part] + 1))
        assert (seen == 1).all()

        def fail(part: slice) -> None:
            if part.start == 300:
                raise ValueError("row 300")

        with pytest.raises(ValueError, match="row 300"):
            in_blocks(1001, 100, threads, fail)


def test_one_block_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting one takes longer than a few rows do."""
    monkeypatch.delattr(blocks, "ThreadPoolExecutor")
    seen: list[slice] = []

    in_blocks(100, 100, 8, seen.append)

    assert seen == [slice(0, 100)]


@pytest.mark.parametrize(
    ("rows", "threads", "shares"),
    [(0, 2, 1), (999, 2, 1), (1000, 2, 2), (5001, 2, 2), (1700, 16, 3), (5000, 1, 1)],
)
def test_threads_share_rows_and_each_is_alone_with_its_own(rows: int, threads: int, shares: int) -> None:
    """In their order, in shares worth a thread; what is asked inside takes one thread, whatever somebody set."""
    seen: list[tuple[int, int, int]] = []

    def act(part: slice) -> np.ndarray:
        seen.append((threading.get_ident(), threads_for(10**6, 5), part.stop - part.start))
        time.sleep(0.05)
        return np.arange(rows)[part]

    assert np.array_equal(by_shares(rows, threads, act), np.arange(rows))
    assert len({ident for ident, _, _ in seen}) == len(seen) == shares
    assert {inner for _, inner, _ in seen} == ({5} if shares == 1 else {1})
    sizes = [size for _, _, size in seen]
    assert max(sizes) - min(sizes) <= 1
    assert threads_for(10**6, 5) == 5


def test_an_error_in_a_share_is_raised() -> None:
    def fail(part: slice) -> np.ndarray:
        raise ValueError(f"row {part.start}")

    with pytest.raises(ValueError, match="row 0"):
        by_shares(2000, 2, fail)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have rules of their own")
def test_blocks_get_their_memory_once() -> None:
    """In a process that has freed nothing large yet. Arrays that are mapped anew for each block fault on every page, 512 for 2 MB."""
    ask = """if True:
        import resource
        import numpy as np
        from kubeautoml_trainer.models.blocks import in_blocks
        def hold_five(part):
            arrays = [np.ones(250_000) for _ in range(5)]
        in_blocks(10, 1, 1, hold_five)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        in_blocks(100, 1, 1, hold_five)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """

    faults = int(subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout)

    assert faults < 1000


OBJECTIVES = {"regression": 1, "quantile": 1, "binary": 2, "multiclass": 3}
MANY = tree_walker.MANY_ROWS


def make_mixed(rows: int, seed: int = 0) -> np.ndarray:
    """float64 (rows, 7): two numbers with gaps, seconds of 2025, tenths, two columns of codes, and a number without gaps."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 7))
    x[:, :2][random.random((rows, 2)) < 0.1] = np.nan
    x[:, 2] = 1.75e9 + random.integers(0, 60, rows)
    x[:, 3] = x[:, 3].round(1)
    x[:, 4], x[:, 5] = random.integers(-1, 150, rows), random.integers(0, 5, rows)
    return x


def train_mixed(objective: str, leaves: int, rounds: int, **settings: object) -> lgb.Booster:
    """A booster whose target depends on all columns, among them on single seconds."""
    x, classes = make_mixed(3000), OBJECTIVES[objective]
    y = np.nan_to_num(x[:, 0]) + x[:, 4] % 7 + 3 * (x[:, 5] == 2) + x[:, 2] % 5 + x[:, 3] * x[:, 6]
    if classes > 1:
        y = np.digitize(y, np.quantile(y, np.arange(1, classes) / classes))
    own = {"objective": objective, "num_class": classes if classes > 2 else 1, "num_leaves": leaves, "verbosity": -1}
    small = {"min_data_in_leaf": 3, "min_data_per_group": 5, "max_cat_to_onehot": 3}
    return lgb.train({**own, **small, **settings}, lgb.Dataset(x, y, categorical_feature=[4, 5]), rounds)


@pytest.mark.parametrize("settings", [{}, {"max_cat_to_onehot": 100}, {"extra_trees": True}, {"use_missing": False}])
@pytest.mark.parametrize("leaves", [2, 31])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_many_rows_get_from_a_booster_what_few_get(objective: str, leaves: int, settings: dict[str, object]) -> None:
    """Numbers beyond all thresholds, infinite or missing, and codes that training never had, among them; first of parts of the trees,
    then of the walker.
    """
    trained, x = train_mixed(objective, leaves, 40, **settings), make_mixed(MANY, seed=1)
    booster = BoosterScores(trained.model_to_string())
    x[:40, 4], x[:40, 5] = np.tile([np.nan, -7, 151, 9999], 10), np.tile([np.nan, 5, 63, 64], 10)
    x[40:60, 6], x[60:80, 0], x[80:100, 0] = np.nan, np.inf, -np.inf
    raw = trained.predict(x, raw_score=True)

    np.testing.assert_allclose(booster.scores(x[:500], 2), raw[:500], rtol=0, atol=1e-12)
    np.testing.assert_allclose(booster.scores(x, 2), raw, rtol=1e-5, atol=1e-5)
    assert np.abs(booster.scores(x) - raw).max() > 0  # what adds up in float32 is not the same to the last bit
    if OBJECTIVES[objective] > 1:
        np.testing.assert_allclose(booster.probabilities(x, 2), trained.predict(x), rtol=0, atol=1e-6)
        np.testing.assert_array_equal(booster.probabilities(x[:255]), trained.predict(x[:255]))
    np.testing.assert_array_equal(booster.scores(x[:255]), raw[:255])


@pytest.mark.parametrize("columns", [5, 90])
@pytest.mark.parametrize("rounds", [3, 40])
def test_a_booster_asked_a_few_trees_at_a_time_says_what_it_says_at_once(columns: int, rounds: int) -> None:
    """To 1e-12, whatever the number of trees, which need not be a multiple."""
    x = make_numbers(900, columns)
    trained = lgb.train({"objective": "regression", "verbosity": -1}, lgb.Dataset(x, x[:, 0] * x[:, 1]), rounds)
    booster = BoosterScores(trained.model_to_string(num_iteration=rounds - 1))

    expected = lgb.Booster(model_str=booster.text).predict(x)
    np.testing.assert_allclose(booster.scores(x, 2), expected, rtol=0, atol=1e-12)


def test_a_row_goes_where_lightgbm_sends_it_however_close_it_is_to_a_threshold() -> None:
    """Seconds of 2025, of which 128 are one float32; asked at the thresholds, and at the next float64 on either side."""
    x = 1.75e9 + np.arange(3000.0)[:, None] % 100
    y = np.random.default_rng(0).normal(size=100)[np.arange(3000) % 100]
    settings = {"objective": "regression", "num_leaves": 40, "min_data_in_leaf": 1, "verbosity": -1}
    text = lgb.train(settings, lgb.Dataset(x, y), 1).model_to_string()
    thresholds = np.array(text.split("threshold=")[1].splitlines()[0].split(), dtype=float)
    assert len(thresholds) == 39
    asked = np.concatenate([thresholds, np.nextafter(thresholds, 0), np.nextafter(thresholds, np.inf)])
    asked = np.resize(asked, MANY)[:, None]

    np.testing.assert_allclose(BoosterScores(text).scores(asked), lgb.Booster(model_str=text).predict(asked), rtol=1e-6)


def test_trees_that_are_a_leaf_add_theirs() -> None:
    """Boosters of nothing else, and among other trees."""
    x = make_numbers(MANY, 3)
    constant = lgb.train({"objective": "regression", "verbosity": -1}, lgb.Dataset(x, np.full(MANY, 7.5)), 2)
    classes = np.where(x[:, 0] > 0, 0, np.where(x[:, 1] > 2.6, 2, 1))
    settings = {"objective": "multiclass", "num_class": 3, "min_sum_hessian_in_leaf": 100.0, "verbosity": -1}
    rare = lgb.train(settings, lgb.Dataset(x, classes), 5)
    assert "num_leaves=1\n" in rare.model_to_string()

    for trained in (constant, rare):
        booster = BoosterScores(trained.model_to_string())
        np.testing.assert_allclose(booster.scores(x), trained.predict(x, raw_score=True), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"use_missing": False}])
@pytest.mark.parametrize("classes", [1, 3])
def test_trees_of_one_column_become_a_table(
    monkeypatch: pytest.MonkeyPatch, classes: int, settings: dict[str, bool]
) -> None:
    """However deep; to float64's last digits, at the thresholds and beyond them, and without a walker where there are no others."""
    monkeypatch.delattr(lightgbm_walk, "Walker")
    x = make_mixed(MANY)[:, [0, 2, 3]]
    x[::7, 2] = 0.0
    y = np.sin(3 * np.nan_to_num(x[:, 0])) + x[:, 1] % 3 + x[:, 2]
    y = y if classes == 1 else np.digitize(y, np.quantile(y, [0.3, 0.6]))
    own = {"objective": "regression" if classes == 1 else "multiclass", "num_class": classes, "verbosity": -1}
    each = {"num_leaves": 15, "min_data_in_leaf": 3, "interaction_constraints": [[0], [1], [2]]}
    trained = lgb.train({**own, **each, **settings}, lgb.Dataset(x, y), 60)
    trees = lightgbm_walk._read(trained.model_to_string())
    x[:1000] = np.random.default_rng(1).choice(trees.threshold[np.abs(trees.threshold) > 1e-30], (1000, 3))
    x[:4] = np.array([[np.nan], [np.inf], [-np.inf], [0.0]])

    found = lightgbm_walk.LightGBMWalk(trees).scores(x)

    assert {len(set(trees.feature[trees.tree == k])) for k in range(60)} == {1}
    np.testing.assert_allclose(found, trained.predict(x, raw_score=True), rtol=0, atol=1e-12)


def test_the_walker_takes_rows_through_the_other_trees_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those that are a leaf, nor those of one column; those of a class may be more than another's."""
    x = make_numbers(MANY, 5)
    classes = np.where(x[:, 0] * x[:, 1] > 0, 0, np.where(x[:, 2] > 1.5, 2, 1))
    own = {"objective": "multiclass", "num_class": 3, "num_leaves": 3, "min_sum_hessian_in_leaf": 20.0, "verbosity": -1}
    trained = lgb.train(own, lgb.Dataset(x, classes), 60)
    made: list[tuple[int, list[int]]] = []
    walker = lightgbm_walk.Walker

    def make(nodes: tree_walker.Nodes, columns: int, scores: int, score: np.ndarray) -> tree_walker.Walker:
        made.append((len(nodes.ends) - 1, np.bincount(score, minlength=3).tolist()))
        return walker(nodes, columns, scores, score)

    monkeypatch.setattr(lightgbm_walk, "Walker", make)
    booster = BoosterScores(trained.model_to_string())
    trees = lightgbm_walk._read(booster.text)
    columns = [len(set(trees.feature[trees.tree == k])) for k in range(len(trees.leaves))]

    np.testing.assert_allclose(booster.scores(x), trained.predict(x, raw_score=True), rtol=0, atol=1e-5)

    assert {0, 1, 2} <= set(columns)
    assert made == [(columns.count(2), [columns[k::3].count(2) for k in range(3)])]
    assert len(set(made[0][1])) > 1


def train_plain(leaves: int = 31) -> tuple[lgb.Booster, BoosterScores, np.ndarray]:
    x = make_numbers(MANY, 5)
    settings = {"objective": "regression", "num_leaves": leaves, "verbosity": -1}
    trained = lgb.train(settings, lgb.Dataset(x, x[:, 0] * x[:, 1]), 40)
    return trained, BoosterScores(trained.model_to_string()), x


def test_many_rows_are_asked_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a few are not: a call costs more than their trees."""
    _, booster, x = train_plain()
    calls: list[int] = []
    ask = booster.booster.predict
    monkeypatch.setattr(booster.booster, "predict", lambda *a, **k: (calls.append(len(a[0])), ask(*a, **k))[1])

    booster.scores(x[:900])
    booster.scores(x[:100])

    assert calls == [900, 900, 900, 100]


def test_a_walker_is_made_once_and_only_for_calls_of_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many calls of fewer there are; the same rows get the same to the last bit before and after."""
    _, booster, x = train_plain()
    made: list[int] = []
    walk = lightgbm_walk.LightGBMWalk
    monkeypatch.setattr(lightgbm_walk, "LightGBMWalk", lambda trees: made.append(len(trees.leaves)) or walk(trees))

    before = [booster.scores(x[: MANY - 1]) for _ in range(3)]
    assert not made
    many = [booster.scores(x) for _ in range(3)]

    assert made == [40]
    assert all(np.array_equal(found, many[0]) for found in many)
    assert np.array_equal(booster.scores(x[: MANY - 1]), before[0])


def test_large_trees_are_asked_in_parts_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The walker would not be faster; and that is found out once."""
    trained, booster, x = train_plain(leaves=120)
    read: list[int] = []
    whole = lightgbm_walk._read
    monkeypatch.setattr(lightgbm_walk, "_read", lambda text: (read.append(len(text)), whole(text))[1])

    for _ in range(3):
        np.testing.assert_allclose(booster.scores(x), trained.predict(x), rtol=0, atol=1e-12)

    assert len(read) == 1


def test_a_booster_that_many_threads_ask_answers_each_with_its_own_trees() -> None:
    """LightGBM keeps the range of trees of a call in the booster: without a lock one call answers with another's. Few rows, some hundred,
    and so many that a walker is made meanwhile.
    """
    _, booster, x = train_plain()
    alone = BoosterScores(booster.text)
    parts = [x[:1], x[:600], x]
    expected = [alone.scores(part) for part in parts]

    with ThreadPoolExecutor(4) as pool:
        asked = list(pool.map(lambda k: booster.scores(parts[k % 3]), range(60)))

    for k, found in enumerate(asked):
        np.testing.assert_array_equal(found, expected[k % 3])


@pytest.mark.parametrize("depth", [1, 4, 8])
@pytest.mark.parametrize("classes", [0, 2, 3])
def test_many_rows_get_from_boosted_trees_what_few_get(classes: int, depth: int) -> None:
    """Rows at the thresholds among them: middles of tenths."""
    x = make_numbers(1000, 6).round(1).astype(np.float32)
    y = x[:, 0] * x[:, 1] + x[:, 2]
    kind = ensemble.GradientBoostingClassifier if classes else ensemble.GradientBoostingRegressor
    y = np.digitize(y, np.quantile(y, np.arange(1, classes) / classes)) if classes else y
    grown = kind(n_estimators=20, max_depth=depth, random_state=0).fit(x, y)
    trees, value = flatten([tree.tree_ for round_ in grown.estimators_ for tree in round_])
    target = None if classes else NumberTarget(log=False, center=0.0, scale=1.0, low=None, high=None)
    leaf, start = (value[:, 0] * 0.1).astype(np.float32), np.linspace(0.5, 1.5, classes if classes > 2 else 1)
    model = BoostedTrees(trees, leaf, start, np.arange(classes), max(1, classes), target)
    asked = make_numbers(2000, 6, seed=1).round(1)
    asked[::2] += 0.05
    rows = Encoded(asked, np.zeros((2000, 0), dtype=np.int32))
    parts = [slice(first, first + 200) for first in range(0, 2000, 200)]

    few = np.concatenate([model.predict(Encoded(asked[part], rows.codes[part])) for part in parts])
    many = model.predict(rows, 2)

    assert np.abs(many - few).max() > 0  # it went another way
    np.testing.assert_allclose(many, few, rtol=1e-5, atol=1e-6)
