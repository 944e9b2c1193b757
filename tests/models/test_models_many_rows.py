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
from kubeautoml_trainer.models import blocks
from kubeautoml_trainer.models import trees as own_trees
from kubeautoml_trainer.models.blocks import by_shares, in_blocks
from kubeautoml_trainer.models.cores import threads_for
from kubeautoml_trainer.models.forest import Forest
from kubeautoml_trainer.models.lightgbm_scores import probabilities, scores
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


@pytest.mark.parametrize("rounds", [3, 40])
@pytest.mark.parametrize("columns", [5, 90])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_booster_asked_a_few_trees_at_a_time_says_what_it_says_at_once(
    objective: str, columns: int, rounds: int
) -> None:
    """To 1e-12, whatever the number of trees, which need not be a multiple."""
    x, classes = make_numbers(900, columns), OBJECTIVES[objective]
    y = x[:, 0] * x[:, 1] if classes == 1 else np.digitize(x[:, 0], np.linspace(-0.5, 0.5, classes - 1))
    settings = {"objective": objective, "verbosity": -1, "num_class": classes if classes > 2 else 1}
    trained = lgb.train(settings, lgb.Dataset(x, y), rounds)
    booster = lgb.Booster(model_str=trained.model_to_string(num_iteration=rounds - 1))

    np.testing.assert_allclose(scores(booster, x, 2), booster.predict(x, raw_score=True), rtol=0, atol=1e-12)
    if classes > 1:
        np.testing.assert_allclose(probabilities(booster, x, 2), booster.predict(x), rtol=0, atol=1e-12)
        np.testing.assert_allclose(probabilities(booster, x[:5], 2), booster.predict(x[:5]), rtol=0, atol=0)


def test_many_rows_are_asked_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a few are not: a call costs more than their trees."""
    x = make_numbers(900, 5)
    booster = lgb.train({"objective": "regression", "verbosity": -1}, lgb.Dataset(x, x[:, 0]), 40)
    calls: list[int] = []
    ask = booster.predict
    monkeypatch.setattr(booster, "predict", lambda *a, **k: (calls.append(len(a[0])), ask(*a, **k))[1])

    scores(booster, x, 1)
    scores(booster, x[:100], 1)

    assert calls == [900, 900, 900, 100]


def test_a_booster_that_many_threads_ask_answers_each_with_its_own_trees() -> None:
    """LightGBM keeps the range of trees of a call in the booster: without a lock one call answers with another's."""
    x = make_numbers(600, 5)
    booster = lgb.train({"objective": "regression", "verbosity": -1}, lgb.Dataset(x, x[:, 0] * x[:, 1]), 200)
    many, one = scores(booster, x, 1), scores(booster, x[:1], 1)

    with ThreadPoolExecutor(4) as pool:
        asked = list(pool.map(lambda k: scores(booster, x if k % 3 else x[:1], 1), range(60)))

    for k, found in enumerate(asked):
        np.testing.assert_array_equal(found, many if k % 3 else one)
