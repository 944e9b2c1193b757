"""Search spaces as pure descriptions; `search` turns them into calls of the optimiser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Value = float | int | str | bool
Parameters = Mapping[str, Value]


@dataclass(frozen=True)
class Float:
    """A real number in [low, high]."""

    low: float
    high: float
    log: bool = False
    when: Mapping[str, Value] = field(default_factory=dict)
    """Other parameters of the family and the value they must have for this one to exist."""


@dataclass(frozen=True)
class Int:
    """A whole number in [low, high]."""

    low: int
    high: int
    log: bool = False
    step: int = 1
    when: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    choices: tuple[Value, ...]
    when: Mapping[str, Value] = field(default_factory=dict)


Space = Mapping[str, Float | Int | Choice]
"""Hyperparameter name -> what it may be. A parameter stands after those its `when` names."""
