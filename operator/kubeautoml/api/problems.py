"""One broken rule, and how it is told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rapidfuzz import process

from kubeautoml.api.conditions import Reason
from kubeautoml.api.secrets import masked

REQUIRED = "is required"


@dataclass(frozen=True)
class Problem:
    """One broken rule. `message` is a whole sentence with path, rule, value and, where known, what to do."""

    path: str
    rule: str
    value: Any
    message: str
    reason: Reason = Reason.INVALID_SPEC
    near: str | None = None
    """Path of the field that a misspelt one probably means."""


def said(path: str, rule: str, value: Any, *, more: str = "", reason: Reason = Reason.INVALID_SPEC) -> Problem:
    """A problem whose message is: path, rule, value, and what else there is to say."""
    return Problem(path, rule, value, f"{path} {rule}, got {shown(value)}{more}", reason)


def shown(value: Any) -> str:
    """A value as it stands in a message: short, and never a whole object."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return printable(repr(value) if not isinstance(value, str) else f"'{masked(value)[:80]}'")


def printable(text: str) -> str:
    """The text in one line that shows everywhere: what is no letter or sign is written as an escape."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The known word that a misspelt one probably means."""
    found = process.extractOne(given, list(known), processor=str.lower, score_cutoff=60)
    return str(found[0]) if found else None
