"""How long trees and neighbours take for many rows, against the libraries that grew or know them, on one thread; and what trees weigh.

    python benchmarks/many_rows.py

150 trees down to single rows, which scikit-learn walks in compiled code, one after the other, and pickles; 600 trees of LightGBM, which
takes each row through all of them before the next; 300 small ones of scikit-learn; and 137 neighbours of each row among 5,000, in 8
columns, which scikit-learn finds by looking at all of them, as its brute force, or by a tree.
"""

from __future__ import annotations

import pickle
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lightgbm
import numpy as np
from figures import record
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor
from sklearn.neighbors import KNeighborsRegressor

from kubeautoml_trainer.features import Encoded
from kubeautoml_trainer.models.cores import one_blas_thread
from kubeautoml_trainer.models.forest import Forest
from kubeautoml_trainer.models.gradient_boosting import BoostedTrees
from kubeautoml_trainer.models.lightgbm_scores import BoosterScores
from kubeautoml_trainer.models.nearest_neighbors import Neighbors
from kubeautoml_trainer.models.target import NumberTarget
from kubeautoml_trainer.models.trees import flatten

LEARNED, ASKED, COLUMNS, CALLS = 5_000, 10_000, 30, 5
NEAR, NEAR_COLUMNS = 137, 8
AS_IT_IS = NumberTarget(log=False, center=0.0, scale=1.0, low=None, high=None)


def make_numbers(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A product and noise: trees grow deep."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, COLUMNS))
    return x, x[:, 0] * x[:, 1] + random.normal(size=rows)


def cpu_seconds(act: Callable[[], object]) -> float:
    """The least of a few calls: what a shared machine does beside them only adds."""
    taken = []
    with one_blas_thread():  # others would wait busily, which counts
        for _ in range(CALLS):
            began = time.process_time()
            act()
            taken.append(time.process_time() - began)
    return min(taken)


def rows_of(numbers: np.ndarray) -> Encoded:
    """Rows without categories."""
    return Encoded(numbers, np.zeros((len(numbers), 0), dtype=np.int32))


def main() -> None:
    (x, y), (asked, _) = make_numbers(LEARNED, 0), make_numbers(ASKED, 1)

    grown = ExtraTreesRegressor(150, n_jobs=1, random_state=0).fit(x, y)
    trees, leaf = flatten([e.tree_ for e in grown.estimators_])
    forest = Forest(trees, leaf.astype(np.float32), None, "forest", np.zeros(0))
    rows = rows_of(asked)
    reached = trees.leaves(asked[:100].astype(np.float32))
    assert np.allclose(leaf[reached, 0].mean(axis=1), grown.predict(asked[:100]))
    ours = cpu_seconds(lambda: forest.predict(rows))
    theirs = cpu_seconds(lambda: grown.predict(asked))
    record("forest, times scikit-learn's own way", ours / theirs)
    with tempfile.TemporaryDirectory() as folder:
        forest.save(Path(folder))
        stored = sum(f.stat().st_size for f in Path(folder).iterdir())
    record("forest's file, times scikit-learn's pickle", stored / len(pickle.dumps(grown)))

    settings = {"objective": "regression", "verbosity": -1, "num_threads": 1}
    grown_by_histogram = lightgbm.train(settings, lightgbm.Dataset(x, y), 600)
    booster = BoosterScores(grown_by_histogram.model_to_string())
    few = asked[: ASKED // 10]
    assert np.allclose(booster.scores(few), grown_by_histogram.predict(few), rtol=1e-12)
    parts = cpu_seconds(lambda: booster.scores(few)) / len(few)
    theirs = cpu_seconds(lambda: grown_by_histogram.predict(asked, num_threads=1)) / ASKED
    record("booster, a few trees at a time, times LightGBM's own way", parts / theirs)
    whole = booster.scores(asked)
    assert np.allclose(whole, grown_by_histogram.predict(asked), rtol=1e-4, atol=1e-4)
    record("booster, walked, times LightGBM's own way", cpu_seconds(lambda: booster.scores(asked)) / ASKED / theirs)

    boosted = GradientBoostingRegressor(n_estimators=300, max_depth=4, random_state=0).fit(x[:1000], y[:1000])
    trees, leaf = flatten([e.tree_ for e in boosted.estimators_[:, 0]])
    start = np.array([y[:1000].mean()])
    model = BoostedTrees(trees, (0.1 * leaf[:, 0]).astype(np.float32), start, np.zeros(0, dtype=int), 1, AS_IT_IS)
    assert np.allclose(model.predict(rows)[:, 0], boosted.predict(asked), rtol=1e-4, atol=1e-4)
    ours = cpu_seconds(lambda: model.predict(rows))
    theirs = cpu_seconds(lambda: boosted.predict(asked))
    record("boosted trees, times scikit-learn's own way", ours / theirs)

    known, near = x[:, :NEAR_COLUMNS].astype(np.float32), rows_of(asked[:, :NEAR_COLUMNS])
    ones = np.ones(NEAR_COLUMNS, dtype=np.float32)
    neighbours = Neighbors(known, ones, y, np.ones(LEARNED), np.ones(1), NEAR, "euclidean", "uniform", AS_IT_IS)
    ours = cpu_seconds(lambda: neighbours.predict(near))
    for name in ("brute", "kd_tree"):
        found = KNeighborsRegressor(NEAR, algorithm=name, n_jobs=1).fit(known, y)
        assert np.allclose(
            neighbours.predict(rows_of(asked[:99, :NEAR_COLUMNS]))[:, 0], found.predict(near.numbers[:99])
        )
        theirs = cpu_seconds(lambda found=found: found.predict(near.numbers))
        record(f"neighbours, times scikit-learn's {name}", ours / theirs)


if __name__ == "__main__":
    main()
