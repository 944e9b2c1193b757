"""Markdown as a forge shows it: tables, cells and the anchors of headings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

MADE_OF = "Made from {source} by `make docs`; do not edit."


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown already."""
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Plain text as a cell: on one line, and nothing in it is taken for markup."""
    line = " ".join(text.split())
    return re.sub(r"([|<>*])", r"\\\1", line)


def code(text: str) -> str:
    """Text to be typed as it stands, in a cell."""
    return f"`{text.replace('|', chr(92) + '|')}`"


def anchor(heading: str) -> str:
    """What a link to a heading ends in, by the rule of the forges."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def link(text: str, heading: str) -> str:
    """A link to a heading of the same page."""
    return f"[{text}](#{anchor(heading)})"
