"""Links lead somewhere, fields that are named exist, and the index knows every page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripts.reference.markdown import anchor

from docs.command_rules import nested
from docs.manifest_rules import chart_values, values_trouble
from docs.markdown_files import ROOT, headings, markdown_files, prose
from kubeautoml.api.crd import KINDS, definition

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
DOCS = ROOT / "docs"


def ids(file: Path) -> str:
    return str(file.relative_to(ROOT))


def anchors(file: Path) -> set[str]:
    """What links to a file may end in; a heading that comes twice has a number at its second place."""
    found: list[str] = []
    for heading in headings(file):
        name = anchor(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading))
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return set(found)


def dead_links(file: Path) -> Iterator[str]:
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "code", prose(file))):
        if re.match(r"^[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        there = (file.parent / path).resolve() if path else file
        if not there.exists() or (fragment and there.suffix == ".md" and fragment not in anchors(there)):
            yield target


@pytest.mark.parametrize("file", markdown_files(), ids=ids)
def test_every_link_to_a_file_or_a_heading_leads_there(file: Path) -> None:
    assert list(dead_links(file)) == []


def test_a_dead_link_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A head\n\n[a](#a-head) [b](#b) [c](page.md#a-head) [d](absent.md) [e](https://example.org)\n")

    assert list(dead_links(page)) == ["#b", "absent.md"]


@pytest.mark.parametrize(
    "file", [p for p in markdown_files() if DOCS in p.parents and p.parent != DOCS / "runbooks"], ids=ids
)
def test_every_page_is_in_an_index(file: Path) -> None:
    """docs/README.md names each page, or the index of its folder."""
    index = DOCS / "README.md"
    if file == index:
        return
    named = {(index.parent / t.partition("#")[0]).resolve() for t in LINK.findall(prose(index))}

    assert file in named, f"docs/README.md has no link to {ids(file)}"


def _paths(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        below = f"{path}.{name}" if path else name
        yield below
        inner = field
        while isinstance(inner.get("items") or inner.get("additionalProperties"), dict):
            inner = inner.get("items") or inner["additionalProperties"]
        yield from _paths(inner, below)
        if "additionalProperties" in field:
            yield f"{below}.*"


def _known() -> set[str]:
    """Paths of fields of our kinds: from the root, and from spec."""
    found: set[str] = set()
    for kind in KINDS:
        root = definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        found |= {p for p in _paths(root) if p.split(".")[0] in ("spec", "status")}
    return found | {p.removeprefix("spec.") for p in found if p.startswith("spec.")}


KNOWN = _known()
FIRST = {p.split(".")[0] for p in KNOWN} - {"metadata"}
NOT_OURS = {"spec.holderIdentity", "spec.renewTime"}
"""Fields of kinds that are not ours, where a page speaks of them."""


def wrong_fields(text: str) -> list[str]:
    """Dotted paths in backticks that begin like a field of ours and are none."""
    named = re.findall(r"`([a-z]\w*(?:\.[a-zA-Z]\w*)+)`", text)
    files = re.compile(r"\.(md|py|json|csv|html|yaml|yml|parquet|txt|crt|npz|safetensors|sh|key|pem)$")
    return [
        p for p in named if p.split(".")[0] in FIRST and not files.search(p) and not _is_known(p) and p not in NOT_OURS
    ]


def _is_known(path: str) -> bool:
    """A field, a key below a field that is a map, or a value of the chart."""
    parts = path.split(".")
    if chart_values() and values_trouble(nested(path)) is None:
        return True
    return path in KNOWN or any(".".join([*parts[:i], "*"]) in KNOWN for i in range(1, len(parts)))


@pytest.mark.parametrize("file", markdown_files(), ids=ids)
def test_every_field_that_is_named_by_its_path_exists(file: Path) -> None:
    """Of the tables in coming-from all columns but the first, which has the other tool's words."""
    text = prose(file)
    if file.parent.name == "coming-from":
        text = re.sub(r"^\|[^|]*\|", "|", text, flags=re.MULTILINE)

    assert wrong_fields(text) == []


def test_a_wrong_field_would_be_found() -> None:
    text = "`spec.search.sampler` `search.samplr` `workers.resources.limits.memory` `report.html` `spec.tasks.type`"

    assert wrong_fields(text) == ["search.samplr", "spec.tasks.type"]
