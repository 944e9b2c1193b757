"""Many clients at once get the answers that each would get alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest

from kubeautoml_trainer.models import FAMILIES
from serve.bundles import Trained, train_every_type
from serve.conftest import Train
from serve.running import running

CLIENTS, REQUESTS, LARGE = 8, 240, 400


@pytest.mark.parametrize("family", [f.name for f in FAMILIES])
def test_a_model_predicts_in_many_threads_as_in_one(trained: Train, family: str):
    """Bit for bit, with batches of several sizes at once, large ones among them, which go another way; boosters hold state of their
    own in C++.
    """
    model: Trained = trained(family, True)
    many = (model.records * (LARGE // len(model.records) + 1))[:LARGE]
    frames = [pd.DataFrame(many[: LARGE if i % 3 == 0 else 1 + i % 24], dtype=object) for i in range(160)]
    alone = [model.model.raw_prediction(f) for f in frames[:24]]

    with ThreadPoolExecutor(CLIENTS) as pool:
        together = list(pool.map(model.model.raw_prediction, frames))

    for i, found in enumerate(together):
        np.testing.assert_array_equal(found, alone[i % 24])


def test_parallel_clients_get_their_own_answers(tmp_path: Path):
    """Hundreds of requests of eight clients on a real server; each answer belongs to its request."""
    model = train_every_type(tmp_path, ["LightGBM", "CatBoost"], classes=True)
    expected = model.expected["target_yes"].to_numpy()

    with running(str(model.folder), tmp_path) as server:

        def ask(mine: int) -> list[float]:
            """The largest differences of every eighth request, over one connection."""
            with httpx.Client(base_url=server.url, timeout=60) as client:
                return [difference(client, i) for i in range(mine, REQUESTS, CLIENTS)]

        def difference(client: httpx.Client, i: int) -> float:
            row = i % len(expected)
            rows = client.post("/v1/predict", json=model.records[row:]).json()["predictions"]
            found = [r["probabilities"]["yes"] for r in rows]
            return float(np.abs(np.asarray(found) - expected[row:]).max())

        with ThreadPoolExecutor(CLIENTS) as pool:
            differences = [d for part in pool.map(ask, range(CLIENTS)) for d in part]

    assert len(differences) == REQUESTS
    assert max(differences) < 1e-6
