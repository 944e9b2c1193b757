"""Trees are stored in a fraction of what they take in memory, and come back to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn import ensemble

from kubeautoml_trainer.models.forest import Forest, load_forest
from kubeautoml_trainer.models.trees import Trees, coded, decoded, flatten


def make_rows(columns: int, classes: int = 0, rows: int = 900) -> tuple[np.ndarray, np.ndarray]:
    """Numbers, and a target that is noise, so that trees grow down to single rows."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(rows, columns)).astype(np.float32)
    return x, generator.integers(classes, size=rows) if classes else generator.normal(size=rows)


def grown(x: np.ndarray, y: np.ndarray, count: int = 12) -> tuple[Trees, np.ndarray]:
    """Trees down to single rows, and a tree that is a leaf."""
    kind = ensemble.ExtraTreesClassifier if y.dtype == np.int64 else ensemble.ExtraTreesRegressor
    deep = kind(count, random_state=0).fit(x, y).estimators_
    leaf = kind(1, min_samples_leaf=len(x), random_state=0).fit(x, y).estimators_
    trees, value = flatten([e.tree_ for e in [*deep[:3], *leaf, *deep[3:]]])
    return trees, value.astype(np.float32)


@pytest.mark.parametrize("columns", [3, 300, 70_000])
@pytest.mark.parametrize("classes", [0, 2, 7])
def test_a_stored_forest_is_the_same_forest(tmp_path: Path, columns: int, classes: int) -> None:
    """Also with a tree that is one leaf, and with more columns than a byte, or two, can number."""
    trees, leaf = grown(*make_rows(columns, classes, 60 if columns > 1000 else 900))
    Forest(trees, leaf, None, "forest.safetensors", np.zeros(0)).save(tmp_path)

    found = load_forest(tmp_path, "forest.safetensors")

    for name in ("root", "feature", "threshold", "right"):
        stored, kept = getattr(found.trees, name), getattr(trees, name)
        assert stored.dtype == kept.dtype
        assert np.array_equal(stored, kept), name
    assert found.leaf.dtype == np.float32
    assert np.array_equal(found.leaf.view(np.uint32), leaf.view(np.uint32))


@pytest.mark.parametrize(("classes", "bytes_a_leaf"), [(0, 5), (7, 4)])
def test_a_leaf_and_its_node_take_few_bytes(tmp_path: Path, classes: int, bytes_a_leaf: int) -> None:
    """In memory they take 28, and 52 of seven classes."""
    x, y = make_rows(3, classes)
    trees, leaf = grown(x, y, count=200)
    Forest(trees.with_few_splits(x), leaf, None, "forest.safetensors", np.zeros(0)).save(tmp_path)

    assert (tmp_path / "forest.safetensors").stat().st_size <= bytes_a_leaf * len(leaf)


def integers(x: np.ndarray) -> np.ndarray:
    return np.round(x * 3)


def huge(x: np.ndarray) -> np.ndarray:
    """As large as 32 bits hold, nearly."""
    return x * np.float32(1e35)


def dense_steps(x: np.ndarray) -> np.ndarray:
    """Neighbours with no other number between them."""
    return np.float32(1) + np.float32(2**-23) * np.round(x * 500).astype(np.float32)


@pytest.mark.parametrize("made", [np.asarray, integers, huge, dense_steps], ids=lambda made: made.__name__)
def test_fewer_splits_send_the_rows_they_were_grown_on_the_same_way(made: Callable[[np.ndarray], np.ndarray]) -> None:
    """One column of four is constant, and no tree asks for it."""
    x, y = make_rows(4)
    x = made(x)
    x[:, 2] = 7
    trees, _ = grown(x, y, count=250)

    found = trees.with_few_splits(x)
    splits = len(np.unique(np.stack([found.feature, found.threshold]), axis=1).T)

    assert splits < 0.1 * len(trees.feature)
    assert np.array_equal(found.leaves(x), trees.leaves(x))
    inner = trees.right >= 0
    for column in range(4):
        values, here = np.unique(x[:, column]), inner & (trees.feature == column)
        beside = np.searchsorted(values, trees.threshold[here], side="right")
        assert np.array_equal(np.searchsorted(values, found.threshold[here], side="right"), beside)


def test_a_small_forest_keeps_its_splits() -> None:
    """It has nothing to gain."""
    x, y = make_rows(4)
    trees, _ = grown(x, y)

    assert trees.with_few_splits(x) is trees


def test_values_too_many_to_number_keep_their_splits() -> None:
    """More than 65,536 gaps between values: no threshold could stay between its neighbours."""
    x, y = make_rows(24, rows=3000)
    trees, _ = grown(x, y, count=25)

    assert len(trees.feature) > 2 * 65_536
    assert trees.with_few_splits(x) is trees


@pytest.mark.parametrize("harm", [lambda bits: ~bits, lambda bits: bits * 0, lambda bits: bits[:-3]])
def test_a_damaged_shape_is_refused(tmp_path: Path, harm: Callable[[np.ndarray], np.ndarray]) -> None:
    """Instead of walking into other trees."""
    trees, _ = grown(*make_rows(3))
    stored = trees.arrays()

    with pytest.raises((ValueError, IndexError)):
        Trees.from_arrays({**stored, "is_leaf": harm(stored["is_leaf"])})


def test_leaves_that_say_different_things_are_stored_as_they_are() -> None:
    """A number for each would only add to them."""
    leaf = np.arange(90_000, dtype=np.float32)[:, None]

    stored = coded(leaf)

    assert list(stored) == ["value"]
    assert np.array_equal(decoded(stored), leaf)


def test_zeros_of_both_signs_and_what_is_no_number_stay_apart() -> None:
    """They are equal, or not, in ways of their own."""
    leaf = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 0.0, -0.0, np.nan] * 20, dtype=np.float32)[:, None]

    stored = coded(leaf)

    assert len(stored["value"]) == 5
    assert np.array_equal(decoded(stored).view(np.uint32), leaf.view(np.uint32))
