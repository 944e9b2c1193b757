"""The first steps are followed word by word, with a smaller budget, in one shell: the quick start's and the README's."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from docs.markdown_files import ROOT, Block, blocks_of

QUICK_START = ROOT / "docs" / "quick-start.md"
README = ROOT / "README.md"

NOT_RUN = {
    "git clone": "the clone is this checkout",
    "make setup": "it is set up already: these tests run in it",
    "source .venv": "likewise",
    "make demo": "it does what the quick start does, by a script; the README's next chapter is run here",
}
"""Lines of the first steps that are not run, with the reason."""


def section(file: Path, title: str) -> list[Block]:
    """The blocks of a chapter, down to the next one of its level."""
    lines = file.read_text(encoding="utf-8").splitlines()
    begin = lines.index(f"## {title}") + 1
    end = next((i for i, line in enumerate(lines[begin:], begin + 1) if line.startswith("## ")), len(lines) + 1)
    return [b for b in blocks_of(file) if begin < b.line < end]


def without_setup(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith(tuple(NOT_RUN))) + "\n"


def with_servers_behind(text: str) -> str:
    """A server goes on until somebody stops it: here it stands behind, and is waited for, however slow the machine."""
    text = text.replace("--retry 30", "--retry 200")
    wait = "curl -sf --retry 200 --retry-connrefused --retry-delay 1 http://127.0.0.1:8080/v2/health/ready"
    return re.sub(r"^(kubeautoml serve [^&#\n]+?)( *#.*)?$", rf"\1 &\n{wait}", text, flags=re.MULTILINE)


def in_one_shell(blocks: list[Block], folder: Path, port: int) -> subprocess.CompletedProcess[str]:
    """Run bash as it stands and Python by `python`, with the page's port as a free one; what runs behind ends with the shell."""
    parts = ["set -euo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for block in blocks:
        if block.language == "bash":
            parts += [
                f"echo '--- {block.line}'",
                with_servers_behind(without_setup(block.text)).replace("8080", str(port)),
            ]
        elif block.language == "python":
            parts += [f"echo '--- {block.line}'", f"python - <<'PYTHON'\n{block.text}PYTHON"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "COLUMNS": "160"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    return subprocess.run(
        ["bash", "-c", "\n".join(parts)], cwd=folder, env=env, capture_output=True, text=True, timeout=280
    )


def free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A folder with the examples, whose budget is three trials of one worker."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    manifest = tmp_path / "examples" / "titanic.yaml"
    text = manifest.read_text(encoding="utf-8")
    small = text.replace("maxTrials: 500", "maxTrials: 3").replace("parallelism: 2", "parallelism: 1")
    small = small.replace("maxDurationSeconds: 60", "maxDurationSeconds: 240")
    assert small.count(": 3\n") == small.count("240") == 1
    manifest.write_text(small, encoding="utf-8")
    yield tmp_path


def test_the_laptop_part_of_the_quick_start_does_what_it_says(checkout: Path) -> None:
    """From the data to an answer of the server; what the page prints as the first rows is what is there."""
    chapter = section(QUICK_START, "On a laptop")

    done = in_one_shell(chapter, checkout, free_port())

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    printed = next(b.text for b in chapter if b.language == "text")
    assert printed in done.stdout
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert set(answer["predictions"][0]) == {"survived", "probabilities"}
    with (checkout / "predictions.csv").open() as file:
        assert next(csv.reader(file)) == ["survived", "survived_0", "survived_1"]
    assert list(checkout.glob("buckets/models/team-a/default/titanic/*/report.html"))


def test_the_first_steps_of_the_readme_do_what_they_say(checkout: Path) -> None:
    """The chapter that runs a manifest by hand."""
    titles = re.findall(r"^## (.+)$", README.read_text(encoding="utf-8"), re.MULTILINE)
    chapters = [section(README, title) for title in titles]
    chapter = next(c for c in chapters if any("kubeautoml run -f" in b.text for b in c if b.language == "bash"))

    done = in_one_shell(chapter, checkout, free_port())

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
