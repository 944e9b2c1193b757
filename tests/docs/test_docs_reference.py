"""The reference says what the code says: fields, commands, metrics, environment, families."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import yaml
from scripts.reference import PAGES
from scripts.reference.environment import member_docs
from scripts.reference.families import WORDS
from scripts.reference.markdown import anchor, cell
from scripts.reference.values import FILE, defaults

from docs.markdown_files import ROOT
from kubeautoml.api import crd
from kubeautoml.api.structural import Schema
from kubeautoml.cli.main import VERBS
from kubeautoml.controller.settings import OperatorEnv
from kubeautoml_trainer.models import EVERY_FAMILY, PRETRAINED_FAMILIES

FOLDER = ROOT / "docs" / "reference"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_says(name: str) -> None:
    """`make docs` writes it anew; so do `python -m scripts.reference` and a commit with the change that it follows."""
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name](), f"docs/reference/{name} is old: run make docs"


@pytest.mark.parametrize("kind", crd.KINDS, ids=lambda k: k.name)
def test_every_field_of_a_kind_stands_in_its_page_once(kind: crd.Kind) -> None:
    """With a description that is a sentence; objects that are alike share a section, to which each field links."""
    page = (FOLDER / f"{kind.name.lower()}.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?:\[)?`(\w+)`(?:\]\(#(\w+)\))? \|.*\| (.*) \|$", page, re.MULTILINE)
    sections = {anchor(h) for h in re.findall(r"^## (.+)$", page, re.MULTILINE)}

    assert {link for _, link, _ in rows if link} <= sections
    assert [name for name, _, words in rows if not words.endswith(".")] == []
    assert {name for name, _, _ in rows} >= set(_field_names(kind))


def _field_names(kind: crd.Kind) -> list[str]:
    """Names of all fields below spec and status; an object's only field `name` is shown in its parent's row."""

    def below(schema: Schema) -> list[str]:
        found = []
        for name, field in schema.get("properties", {}).items():
            inner = below(field)
            found += [name, *(inner if set(field.get("properties", {})) != {"name"} else [])]
        for key in ("items", "additionalProperties"):
            found += below(schema[key]) if isinstance(schema.get(key), dict) else []
        return found

    root = crd.definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return [name for part in ("spec", "status") if part in root for name in below(root[part])]


def test_every_verb_stands_in_the_commands_page() -> None:
    page = (FOLDER / "commands.md").read_text(encoding="utf-8")

    assert [verb for verb in VERBS if f"\n### {verb}" not in page] == []


def test_every_variable_of_the_operator_is_explained() -> None:
    assert [name for name, words in member_docs(OperatorEnv).items() if not words.endswith(".")] == []


def test_every_family_is_explained_in_a_line() -> None:
    """And nothing else is."""
    names = [f.name for f in (*EVERY_FAMILY, *PRETRAINED_FAMILIES)]

    assert list(WORDS) == names


def test_values_are_read_as_yaml_reads_them() -> None:
    """The page's own reading of the file finds the defaults that a YAML reader finds, and all of them."""
    text = FILE.read_text(encoding="utf-8")

    def leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
        if path in shown or not isinstance(value, dict):
            yield path, value
        else:
            for key, below in value.items():
                yield from leaves(below, f"{path}.{key}".lstrip("."))

    shown = defaults(text)
    assert dict(leaves(yaml.safe_load(text), "")) == shown


def test_text_in_a_cell_is_not_taken_for_markup() -> None:
    assert cell("<uri>/<name>\nor a|b *.csv") == r"\<uri\>/\<name\> or a\|b \*.csv"


def test_anchors_are_as_a_forge_makes_them() -> None:
    """GitHub's rule: lower case, no punctuation but the hyphen, spaces become hyphens."""
    assert anchor("What it means, and `how` to fix") == "what-it-means-and-how-to-fix"
    assert anchor("spec.dataset.train") == "specdatasettrain"
