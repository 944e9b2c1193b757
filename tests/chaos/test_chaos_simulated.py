"""Hundreds of kills between any two calls of operator, workers and finalizer, in memory."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from chaos.simulated import Simulation
from chaos.verdict import counted_twice, problems

pytestmark = pytest.mark.anyio

KILLS = 250
MAX_STEPS = 6000
"""Of one job; most need a few hundred."""


@pytest.mark.parametrize("seed", range(3))
async def test_whoever_dies_between_any_two_calls_nothing_is_lost(tmp_path: Path, seed: int) -> None:
    """Jobs one after the other, until so many have died: each ends with a model, and its books balance."""
    kills: Counter[str] = Counter()
    number = 0
    while sum(kills.values()) < KILLS:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        simulation = Simulation(folder, seed * 1000 + number)
        await simulation.create()
        for _ in range(MAX_STEPS):
            await simulation.step()
            if await simulation.has_ended():
                break
        simulation.close()

        ended = await simulation.ended()
        assert [*problems(ended), *counted_twice(ended)] == [], f"seed {seed * 1000 + number}"
        kills += simulation.kills
    assert kills["operator"] >= KILLS / 2
    assert kills["worker"] > 0
