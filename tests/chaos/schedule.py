"""Which faults strike, and when: a pure function of the seed, so that a schedule can be replayed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What can happen to a job. The value is what the table shows."""

    OPERATOR_KILL = "operator SIGKILL"
    OPERATOR_TERM = "operator SIGTERM"
    WORKER_KILL = "worker SIGKILL"
    WORKER_TERM = "worker SIGTERM"
    WORKER_POD_DELETED = "worker pod deleted"
    WORKER_JOB_DELETED = "worker Job deleted"
    FINALIZER_KILL = "finalizer SIGKILL"
    FINALIZER_POD_DELETED = "finalizer pod deleted"
    STUDY_SERVER_KILL = "study server SIGKILL"
    STUDY_CUT = "study connections cut"
    STUDY_DEAF = "study answers lost"
    POSTGRES_STOP = "PostgreSQL immediate stop"
    POSTGRES_KILL = "PostgreSQL SIGKILL"
    POSTGRES_BACKEND_KILL = "PostgreSQL backend SIGKILL"
    S3_KILL = "S3 SIGKILL"
    S3_OUTAGE = "S3 outage"
    S3_CUT = "S3 connections cut"
    API_OUTAGE = "API server outage"
    API_CUT = "API connections cut"
    API_DEAF = "API answers lost"
    SUSPEND = "suspend, resume"
    RESIZE = "parallelism edited"

    @property
    def is_kill(self) -> bool:
        """Whether something dies; the others are what users do meanwhile."""
        return self not in (Kind.SUSPEND, Kind.RESIZE)


WEIGHTS: dict[Kind, float] = {
    Kind.OPERATOR_KILL: 6,
    Kind.OPERATOR_TERM: 4,
    Kind.WORKER_KILL: 16,
    Kind.WORKER_TERM: 8,
    Kind.WORKER_POD_DELETED: 8,
    Kind.WORKER_JOB_DELETED: 4,
    Kind.FINALIZER_KILL: 6,
    Kind.FINALIZER_POD_DELETED: 3,
    Kind.STUDY_SERVER_KILL: 7,
    Kind.STUDY_CUT: 6,
    Kind.STUDY_DEAF: 5,
    Kind.POSTGRES_STOP: 4,
    Kind.POSTGRES_KILL: 2,
    Kind.POSTGRES_BACKEND_KILL: 4,
    Kind.S3_KILL: 1,
    Kind.S3_OUTAGE: 3,
    Kind.S3_CUT: 4,
    Kind.API_OUTAGE: 3,
    Kind.API_CUT: 5,
    Kind.API_DEAF: 3,
    Kind.SUSPEND: 4,
    Kind.RESIZE: 5,
}
"""How often each comes. Operators seldom enough that one leads between two kills, since a dead one's lease holds for 15 s."""


@dataclass(frozen=True)
class Strike:
    """One fault. Numbers between 0 and 1 choose among what is there at that moment."""

    number: int
    kind: Kind
    after_seconds: float
    """Since the strike before."""
    lasts_seconds: float
    """Of an outage; of the time until what was killed comes back."""
    pick: float

    def choose(self, things: list[str]) -> str | None:
        """One of the things there are; None of nothing."""
        return sorted(things)[int(self.pick * len(things))] if things else None


def schedule(seed: int, mean_seconds: float, kinds: dict[Kind, float] | None = None) -> Iterator[Strike]:
    """Strikes without end.

    Args:
        mean_seconds: between two strikes; they come in bursts and with pauses, from a tenth to twice of it.
        kinds: weights; default: all of them.
    """
    random_numbers = random.Random(seed)
    weights = WEIGHTS if kinds is None else kinds
    number = 0
    while True:
        number += 1
        (kind,) = random_numbers.choices(list(weights), list(weights.values()))
        yield Strike(
            number,
            kind,
            after_seconds=mean_seconds * random_numbers.uniform(0.1, 1.9),
            lasts_seconds=random_numbers.uniform(0.5, 4.0),
            pick=random_numbers.random(),
        )
