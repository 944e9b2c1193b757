"""Trees are stored in a third of what they take in memory, and come back to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn import ensemble

from kubeautoml_trainer.models.forest import Forest, load_forest
from kubeautoml_trainer.models.trees import Trees, coded, decoded, flatten


def grown(columns: int, classes: int = 0, rows: int = 900, count: int = 12) -> tuple[Trees, np.ndarray]:
    """Trees down to single rows, and a tree that is a leaf."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(rows, columns))
    y = generator.integers(classes, size=rows) if classes else generator.normal(size=rows)
    kind = ensemble.ExtraTreesClassifier if classes else ensemble.ExtraTreesRegressor
    deep = kind(count, random_state=0).fit(x, y).estimators_
    leaf = kind(1, min_samples_leaf=rows, random_state=0).fit(x, y).estimators_
    trees, value = flatten([e.tree_ for e in [*deep[:3], *leaf, *deep[3:]]])
    return trees, value.astype(np.float32)


@pytest.mark.parametrize("columns", [3, 300, 70_000])
@pytest.mark.parametrize("classes", [0, 2, 7])
def test_a_stored_forest_is_the_same_forest(tmp_path: Path, columns: int, classes: int) -> None:
    """Also with a tree that is one leaf, and with more columns than a byte, or two, can number."""
    trees, leaf = grown(columns, classes, *((60, 3) if columns > 1000 else ()))
    Forest(trees, leaf, None, "forest.safetensors", np.zeros(0)).save(tmp_path)

    found = load_forest(tmp_path, "forest.safetensors")

    for name in ("root", "feature", "threshold", "right"):
        stored, kept = getattr(found.trees, name), getattr(trees, name)
        assert stored.dtype == kept.dtype
        assert np.array_equal(stored, kept), name
    assert found.leaf.dtype == np.float32
    assert np.array_equal(found.leaf.view(np.uint32), leaf.view(np.uint32))


@pytest.mark.parametrize(("classes", "bytes_a_leaf"), [(0, 10), (7, 9)])
def test_a_leaf_and_its_node_take_few_bytes(tmp_path: Path, classes: int, bytes_a_leaf: int) -> None:
    """In memory they take 28, and 52 of seven classes."""
    trees, leaf = grown(3, classes, count=100)
    Forest(trees, leaf, None, "forest.safetensors", np.zeros(0)).save(tmp_path)

    assert (tmp_path / "forest.safetensors").stat().st_size <= bytes_a_leaf * len(leaf)


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
