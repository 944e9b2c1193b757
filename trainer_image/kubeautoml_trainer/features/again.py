"""Where what was worked out of rows, texts and images is kept, for those that come again.

Within one prediction every pipeline of a model reads the same rows: what one has worked out the others find, and it is forgotten
afterwards. A process that fits, or predicts the same rows with many models, keeps it for good; a server never. A single row is looked up
only within its prediction, so that what it takes, where that is measured, is what it takes in a server.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass
class _Process:
    keeps: bool = False


_PROCESS = _Process()
_PREDICTION: ContextVar[dict[Hashable, Any] | None] = ContextVar("prediction", default=None)


def keep_for_rows_that_come_again() -> None:
    """From now on, in this process."""
    _PROCESS.keeps = True


@contextmanager
def one_prediction() -> Iterator[None]:
    """What is worked out inside is known until the end of it; one inside another is part of that."""
    if _PREDICTION.get() is not None:
        yield
        return
    token = _PREDICTION.set({})
    try:
        yield
    finally:
        _PREDICTION.reset(token)


class Kept(Generic[T]):
    """What was worked out of texts, for those that come again; once it is full, of later ones it is worked out every time."""

    def __init__(self, work: Callable[[str], T], most: int, weigh: Callable[[T], int] = lambda _: 1) -> None:
        """most: what all of it may weigh; of each text one, where nothing else is said."""
        self._work, self._most, self._weigh = work, most, weigh
        self._seen: dict[str, T] = {}
        self._weight = 0

    def of(self, text: str) -> T:
        """What is worked out of a text."""
        found = self._seen.get(text)
        if found is None:
            found = self._work(text)
            weight = self._weigh(found)
            if self._weight + weight <= self._most:
                self._seen[text] = found
                self._weight += weight
        return found


def known(kind: Hashable, rows: int, process: T, make: Callable[[], T]) -> T | None:
    """Where to look up what is worked out of rows that come together, and to keep it; None where nobody would ask again.

    Args:
        kind: names what is kept, within one prediction.
        process: what this process keeps for good.
        make: a new store, for one prediction.
    """
    if _PROCESS.keeps and rows > 1:
        return process
    return within_prediction(kind, make)


def within_prediction(kind: Hashable, make: Callable[[], T]) -> T | None:
    """What is kept under this name until the prediction ends; None outside of one."""
    prediction = _PREDICTION.get()
    if prediction is None:
        return None
    if kind not in prediction:
        prediction[kind] = make()
    found: T = prediction[kind]
    return found
