"""Every manifest in the documentation is one that the cluster takes; a part of one is, in its place."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from docs.manifest_rules import trouble
from docs.markdown_files import ROOT, Block, blocks

NO_OBJECTS = {
    "scrape_configs": "a part of Prometheus' configuration; promtool checks docs/runbooks/prometheus.yml as a whole",
}
"""Blocks that hold no object: by their first key, with the reason."""

MANIFESTS = blocks("yaml", "yml")


def documents(block: Block) -> list[Any]:
    """Its documents. A digest of which only the beginning is shown stands for a whole one."""
    text = re.sub(r"sha256: [0-9a-f]+\.\.\.", f"sha256: {'a' * 64}", block.text)
    return [d for d in yaml.safe_load_all(text) if d is not None]


@pytest.mark.parametrize("block", MANIFESTS, ids=str)
def test_a_manifest_in_the_documentation_is_valid(block: Block) -> None:
    found = [said for d in documents(block) if not set(d) & set(NO_OBJECTS) and (said := trouble(d))]

    assert found == []


def test_a_manifest_that_names_its_file_is_that_file() -> None:
    """A block that begins with "# examples/NAME.yaml" says the same as the file."""
    named = [(b, b.text.splitlines()[0].removeprefix("# ")) for b in MANIFESTS if b.text.startswith("# examples/")]

    assert named
    assert [str(b) for b, name in named if documents(b) != list(yaml.safe_load_all((ROOT / name).read_text()))] == []


JOB: dict[str, Any] = {"apiVersion": "kubeautoml.dev/v1alpha1", "kind": "AutoMLJob", "metadata": {"name": "a"}}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({**JOB, "spec": {"tsk": {}}}, "spec.tsk"),
        ({"search": {"presett": "Fast"}}, "presett"),
        ({"objective": {"metric": "Rmsee"}}, "Rmse"),
        ({"limits": {"maxTrails": 1}}, "maxTrails"),
        ({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "stringDta": {}}, "stringDta"),
        (
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {},
                "spec": {"template": {"spec": {"nods": 1}}},
            },
            "no field nods",
        ),
        ({"apiVersion": "v1", "kind": "Secrets"}, "no kind"),
        ({"anything": 1}, "is no part of"),
    ],
)
def test_a_wrong_manifest_would_be_found(document: dict[str, Any], said: str) -> None:
    assert said in str(trouble(document))
