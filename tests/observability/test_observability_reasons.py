"""Reasons: each has its sentence, is used, and stands in the reference; nothing else is ever emitted."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeautoml.api.conditions import ConditionType, Reason
from kubeautoml.api.errors import KubeAutoMLError
from kubeautoml.api.reasons import MEANINGS, reference_page
from observability.exported import ROOT

PAGE = ROOT / "docs" / "reference" / "conditions.md"
SOURCES = [
    file
    for folder in ("operator/kubeautoml", "trainer_image/kubeautoml_trainer")
    for file in sorted((ROOT / folder).rglob("*.py"))
    if file.name not in ("conditions.py", "reasons.py")
]


def nodes(files: list[Path]) -> Iterator[ast.AST]:
    for file in files:
        yield from ast.walk(ast.parse(file.read_text()))


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_says_what_it_means_and_what_to_do(reason: Reason) -> None:
    """Two sentences of at most a line each, which do not repeat the reason."""
    meaning = MEANINGS[reason]

    assert meaning.where in (*ConditionType, "Event")
    for text in (meaning.means, meaning.what_to_do):
        assert text[0].isupper() or text.startswith(("`", "spec.", "budget."))
        assert text.endswith(".")
        assert len(text) <= 110
        assert "|" not in text


def test_the_reference_is_what_the_code_says() -> None:
    """KUBEAUTOML_ACCEPT_SNAPSHOTS=1 writes it anew."""
    if os.environ.get("KUBEAUTOML_ACCEPT_SNAPSHOTS"):
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(reference_page())

    assert PAGE.read_text() == reference_page()
    assert all(f"| {reason.value} |" in reference_page() for reason in Reason)


def test_no_reason_is_left_over() -> None:
    """Each is named somewhere in operator or trainer, or is what an error of ours carries by itself."""
    named = {
        node.attr
        for node in nodes(SOURCES)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Reason"
    }
    carried = {getattr(kind, "default_reason", "") for kind in _errors(KubeAutoMLError)}

    assert {reason.name for reason in Reason if reason.name not in named and reason.value not in carried} == set()


def test_events_carry_reasons_and_nothing_else() -> None:
    """An EventOrder is made with a member of Reason, or with what a condition or a trial already says."""
    files = [f for f in SOURCES if {"plan", "controller"} & set(f.parts)]
    orders = [
        node
        for node in nodes(files)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "EventOrder"
    ]
    given = [ast.unparse(order.args[1]) for order in orders]

    assert len(given) >= 8
    for text in given:
        is_member = text.startswith("Reason.") and text.removeprefix("Reason.") in Reason.__members__
        assert is_member or text in ("after.reason", "t.reason"), text


def _errors(kind: type[KubeAutoMLError]) -> set[type[KubeAutoMLError]]:
    return {kind, *(found for child in kind.__subclasses__() for found in _errors(child))}
