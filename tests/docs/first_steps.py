"""Follows a chapter of the documentation word by word: its blocks in one shell, with what is said below put in their place."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from docs.markdown_files import ROOT, Block, blocks_of

QUICK_START = ROOT / "docs" / "quick-start.md"
README = ROOT / "README.md"
ENDPOINT = ROOT / "docs" / "endpoint.md"

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


def in_one_shell(
    blocks: list[Block],
    folder: Path,
    port: int,
    swaps: dict[str, str] | None = None,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run bash as it stands and Python by `python`; what runs behind ends with the shell.

    Args:
        port: a free one, in place of the page's 8080.
        swaps: what else is put in the place of what; each must be there.
    """
    parts = ["set -euo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for block in blocks:
        if block.language == "bash":
            parts += [
                f"echo; echo '--- {block}'",
                with_servers_behind(without_setup(block.text)).replace("8080", str(port)),
            ]
        elif block.language == "python":
            parts += [f"echo; echo '--- {block}'", f"python - <<'PYTHON'\n{block.text}PYTHON"]
    script = "\n".join(parts)
    for old, new in (swaps or {}).items():
        assert old in script, f"the chapter does not say {old!r} any more"
        script = script.replace(old, new)
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "COLUMNS": "160",
        **(environment or {}),
    }
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    return subprocess.run(["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=850)


def free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def small_checkout(folder: Path) -> Path:
    """A folder with the examples, whose budget is two trials of one worker."""
    shutil.copytree(ROOT / "examples", folder / "examples")
    manifest = folder / "examples" / "titanic.yaml"
    text = manifest.read_text(encoding="utf-8")
    small = text.replace("maxTrials: 500", "maxTrials: 2").replace("parallelism: 2", "parallelism: 1")
    small = small.replace("maxDurationSeconds: 60", "maxDurationSeconds: 3000")
    assert small.count("Trials: 2\n") == small.count("parallelism: 1\n") == small.count("3000") == 1
    manifest.write_text(small, encoding="utf-8")
    return folder
