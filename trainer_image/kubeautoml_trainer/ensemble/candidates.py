"""Which trials may enter the ensemble: few on few rows, or the selection would fit the validation rows' noise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from kubeautoml.api.metrics import METRICS, Direction

TOP = 25  # AutoGluon 1.6 caps its candidates alike
PER_FAMILY = 3

# Rows -> most members; after AutoGluon's row-based caps for its zero-shot portfolio.
_CAPS = ((100, 4), (500, 8), (2_500, 15), (10_000, 40), (100_000, 100))


class Scored(Protocol):
    """Anything with a family and a value."""

    @property
    def trial(self) -> int: ...
    @property
    def family(self) -> str: ...
    @property
    def value(self) -> float: ...


S = TypeVar("S", bound=Scored)


def most_members(rows: int) -> int | None:
    """How many trials may enter on this many training rows; None for no limit.

    >>> most_members(100), most_members(1765), most_members(10**6)
    (4, 15, None)
    """
    return next((cap for limit, cap in _CAPS if rows <= limit), None)


def best_first(trials: Iterable[S], metric: str) -> list[S]:
    """By value in the metric's direction; of equals the earlier trial first."""
    sign = -1.0 if METRICS[metric].direction is Direction.MAXIMIZE else 1.0
    return sorted(trials, key=lambda t: (sign * t.value, t.trial))


def choose_candidates(trials: Sequence[S], metric: str, rows: int) -> list[S]:
    """The top 25 and the best 3 of each family, cut to the cap for these rows, best first.

    The cut keeps the best of each family as long as it can: unlike errors are what an ensemble lives on.
    """
    ranked = best_first(trials, metric)
    place: dict[str, int] = {}
    in_family = []
    for t in ranked:
        in_family.append(place.setdefault(t.family, 0))
        place[t.family] += 1
    chosen = [(k, t) for i, (k, t) in enumerate(zip(in_family, ranked, strict=True)) if i < TOP or k < PER_FAMILY]
    cap = most_members(rows)
    leaders_first = sorted(chosen, key=lambda pair: pair[0] > 0)  # stable: each part stays best first
    return best_first((t for _, t in leaders_first[:cap]), metric)
