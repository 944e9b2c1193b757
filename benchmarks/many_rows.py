"""How long the trees of a model take for many rows, against the libraries that grew them, on one thread.

    python benchmarks/many_rows.py

150 trees down to single rows, which scikit-learn walks in compiled code, one after the other; and 600 trees of LightGBM, which takes
each row through all of them before the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import lightgbm
import numpy as np
from figures import record
from sklearn.ensemble import ExtraTreesRegressor

from kubeautoml_trainer.features import Encoded
from kubeautoml_trainer.models.forest import Forest, flatten
from kubeautoml_trainer.models.lightgbm_scores import scores

LEARNED, ASKED, COLUMNS, CALLS = 5_000, 10_000, 30, 5


def make_numbers(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A product and noise: trees grow deep."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, COLUMNS))
    return x, x[:, 0] * x[:, 1] + random.normal(size=rows)


def cpu_seconds(act: Callable[[], object]) -> float:
    """The least of a few calls: what a shared machine does beside them only adds."""
    taken = []
    for _ in range(CALLS):
        began = time.process_time()
        act()
        taken.append(time.process_time() - began)
    return min(taken)


def main() -> None:
    (x, y), (asked, _) = make_numbers(LEARNED, 0), make_numbers(ASKED, 1)

    grown = ExtraTreesRegressor(150, n_jobs=1, random_state=0).fit(x, y)
    trees, leaf = flatten([e.tree_ for e in grown.estimators_])
    forest = Forest(trees, leaf.astype(np.float32), None, "forest", np.zeros(0))
    rows = Encoded(asked, np.zeros((ASKED, 0), dtype=np.int32))
    reached = trees.leaves(asked[:100].astype(np.float32))
    assert np.allclose(leaf[reached, 0].mean(axis=1), grown.predict(asked[:100]))
    ours = cpu_seconds(lambda: forest.predict(rows))
    theirs = cpu_seconds(lambda: grown.predict(asked))
    record("forest, times scikit-learn's own way", ours / theirs)

    settings = {"objective": "regression", "verbosity": -1, "num_threads": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(x, y), 600)
    assert np.allclose(scores(booster, asked, 1), booster.predict(asked, num_threads=1))
    ours = cpu_seconds(lambda: scores(booster, asked, 1))
    theirs = cpu_seconds(lambda: booster.predict(asked, num_threads=1))
    record("booster, times LightGBM's own way", ours / theirs)


if __name__ == "__main__":
    main()
