"""The Markdown files of the project, and what stands in them: fenced blocks, links, headings."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    file: str
    line: int
    """Of its first line of text, counted from 1."""
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@cache
def markdown_files() -> tuple[Path, ...]:
    """Every Markdown file that is, or is about to be, in the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    names = listed.stdout.split() if listed.returncode == 0 else [str(p.relative_to(ROOT)) for p in _by_hand()]
    return tuple(ROOT / name for name in sorted(names) if (ROOT / name).exists())


def _by_hand() -> Iterator[Path]:
    """Where there is no git, such as in a tarball."""
    yield from ROOT.glob("*.md")
    for folder in ("docs", "trainer_image", "helm", "examples", "benchmarks"):
        yield from (ROOT / folder).rglob("*.md")


def blocks(*languages: str) -> list[Block]:
    """Fenced blocks of these languages, of all files; of all languages where none is named."""
    return [b for file in markdown_files() for b in blocks_of(file) if not languages or b.language in languages]


def blocks_of(file: Path) -> Iterator[Block]:
    """Fenced blocks of one file."""
    text = file.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        indent = len(found["indent"])
        lines = [line[indent:] for line in found["text"].splitlines()]
        number = text.count("\n", 0, found.start("text")) + 1
        yield Block(str(file.relative_to(ROOT)), number, found["language"], "\n".join(lines) + "\n")


def prose(file: Path) -> str:
    """The text of a file without its fenced blocks."""
    return FENCE.sub("", file.read_text(encoding="utf-8"))


@cache
def headings(file: Path) -> tuple[str, ...]:
    """Texts of the headings of a file."""
    return tuple(h.strip() for h in re.findall(r"^#{1,6} (.+)$", prose(file), re.MULTILINE))
