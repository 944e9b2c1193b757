"""The recipe of the images, as tests read it: scripts/slim and scripts/sbom as modules, and the Dockerfile's instructions."""

from __future__ import annotations

import importlib.util
import re
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "Dockerfile"
TARGETS = {"operator": "operator", "trainer": "trainer", "server": "serve"}
"""Target of the Dockerfile -> extra of pyproject.toml."""


def script(name: str) -> ModuleType:
    """A program in scripts/ as a module."""
    loader = SourceFileLoader(f"scripts_{name}", str(ROOT / "scripts" / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def instructions() -> list[tuple[str, str, str]]:
    """(stage, instruction, arguments) of each; lines that go on are joined, comments left out. Before the first FROM the stage is empty."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    found, stage = [], ""
    for line in filter(None, map(str.strip, lines)):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stage = rest.rpartition(" AS ")[2]
        found.append((stage, word, rest))
    return found


def removed_from_server() -> set[str]:
    """Names of the modules that the server's image does not have, though they are installed with the serve extra."""
    patterns = script("slim").WITHOUT["server"]
    return {pattern.removesuffix(".py").replace("/", ".") for pattern in patterns}
