"""Threads of a prediction: as many as the process may use for many rows, one for a few, and as many as somebody said."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from kubeautoml_trainer.models import cores
from kubeautoml_trainer.models.cores import BATCH_ROWS, cores_within, one_blas_thread
from kubeautoml_trainer.models.pipeline import FittedPipeline


@pytest.mark.parametrize(
    ("limit", "environment", "cores"),
    [
        (None, {}, 8),
        ("max 100000", {}, 8),
        ("150000 100000", {}, 2),
        ("50000 100000", {}, 1),
        ("3200000 100000", {}, 8),
        ("torn", {}, 8),
        (None, {"OMP_NUM_THREADS": "3"}, 3),
        ("400000 100000", {"OMP_NUM_THREADS": "many"}, 4),
        (None, {"OMP_NUM_THREADS": "0"}, 1),
    ],
)
def test_cores_are_those_of_machine_container_and_environment(tmp_path, limit, environment, cores):
    """A pod with a limit of 1.5 cores on a large node must not start eight threads."""
    file = tmp_path / "cpu.max"
    if limit is not None:
        file.write_text(limit)

    assert cores_within(8, file, environment) == cores


def test_many_rows_are_predicted_by_all_cores_and_a_few_by_one(monkeypatch):
    """Whatever somebody set counts for both."""
    asked = []
    model = SimpleNamespace(predict=lambda x, threads: asked.append(threads) or np.zeros((len(x), 1)))
    fitted = FittedPipeline("Linear", {}, None, SimpleNamespace(transform=lambda frame: frame), model)
    monkeypatch.setattr(cores, "usable_cores", lambda: 6)
    few, many = pd.DataFrame({"x": [1.0]}), pd.DataFrame({"x": np.zeros(BATCH_ROWS)})

    for rows in (few, many):
        fitted.predict(rows)
    fitted.set_threads(2)
    for rows in (few, many):
        fitted.predict(rows)

    assert asked == [1, 6, 2, 2]


def threads_of_blas() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_products_of_matrices_take_one_thread_until_the_last_has_asked():
    """Of two that overlap in either order, none leaves the limit behind, nor takes it away from the other."""
    cores._libraries.cache_clear()  # more may have been loaded since
    with threadpool_limits(limits=3, user_api="blas"):
        before = threads_of_blas()
        first, second = one_blas_thread(), one_blas_thread()

        first.__enter__()
        second.__enter__()
        assert threads_of_blas() == {1}
        first.__exit__(None, None, None)
        assert threads_of_blas() == {1}
        second.__exit__(None, None, None)

        assert threads_of_blas() == before
        with one_blas_thread():
            assert threads_of_blas() == {1}
        assert threads_of_blas() == before
    assert before != {1}
