"""Python compiles, JSON parses, and queries are PromQL."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path

import pytest
import yaml

from docs.markdown_files import Block, blocks

LANGUAGES = {"", "bash", "console", "diff", "dockerfile", "ini", "json", "mermaid", "promql", "python", "sh", "shell", "text", "toml", "yaml", "yml"}  # fmt: skip
"""Languages that a block may have; `text`, and none, hold what a program has said."""


def test_every_block_names_a_language_that_a_test_knows() -> None:
    assert [(str(b), b.language) for b in blocks() if b.language not in LANGUAGES] == []


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_compiles(block: Block) -> None:
    assert ast.parse(block.text).body, f"{block} holds no statement"


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_parses(block: Block) -> None:
    assert json.loads(block.text), f"{block} says nothing"


def test_queries_are_promql(tmp_path: Path) -> None:
    """All of them as recording rules, which promtool checks; the sixth one that is wrong is named `query:5`."""
    queries = [line for b in blocks("promql") for line in b.text.splitlines() if line.strip()]
    rules = tmp_path / "rules.yaml"
    named = [{"record": f"query:{i}", "expr": q} for i, q in enumerate(queries)]
    rules.write_text(yaml.safe_dump({"groups": [{"name": "docs", "rules": named}]}))

    done = subprocess.run(["promtool", "check", "rules", str(rules)], capture_output=True, text=True)

    assert queries
    assert done.returncode == 0, done.stdout + done.stderr
