"""The command itself: verbs, exit codes, and one line on stderr."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kubeautoml.cli import main as command


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]):
    """`kubeautoml --help` lists all verbs and exits 0."""
    assert command.main(["--help"]) == 0

    text = capsys.readouterr().out
    assert [v for v in command.VERBS if f"  {v} " not in text] == []


def test_a_misspelt_verb_gets_the_nearest_one(capsys: pytest.CaptureFixture[str]):
    """Misuse is exit code 2 and one line."""
    assert command.main(["servve"]) == 2

    assert (
        capsys.readouterr().err
        == "error: 'servve' is not a verb of kubeautoml; did you mean 'serve'?; see kubeautoml --help\n"
    )


@pytest.mark.parametrize("verb", [v for v, (module, _) in command.VERBS.items() if module or v in command.EXTRAS])
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]):
    """`kubeautoml VERB --help` works for every verb and exits 0."""
    try:
        code: object = command.main([verb, "--help"])
    except SystemExit as left:  # argparse leaves by itself
        code = left.code

    printed = capsys.readouterr()
    assert code == 0
    assert "usage: " in printed.out + printed.err


def test_a_missing_extra_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Without the trainer's entry points, its verbs say which extra brings them."""
    monkeypatch.setattr(command, "entry_points", lambda group: [])

    assert command.main(["serve"]) == 2
    assert (
        capsys.readouterr().err
        == "error: 'serve' needs the serve extra; install it with: pip install 'kubeautoml[serve]'\n"
    )


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (None, 2, "error: cannot read {file}: No such file or directory\n"),
        ("a: [1", 1, "error: {file} is not YAML at line 1, column 6"),
        ("kind: Pod\nmetadata: {name: x}\n", 1, "error: {file} must hold exactly one AutoMLJob, it holds Pod\n"),
        ("- 1\n", 1, "error: {file} must hold Kubernetes objects with apiVersion, kind and metadata\n"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_one_line(
    text: str | None, code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """No file, no YAML, no AutoMLJob: each says where and what."""
    file = tmp_path / "job.yaml"
    if text is not None:
        file.write_text(text)

    assert command.main(["validate", "-f", str(file)]) == code
    error = capsys.readouterr().err
    assert error.startswith(message.format(file=file))
    assert error.count("\n") == 1


def test_the_command_starts_without_any_heavy_library():
    """Asking for help loads no pandas, torch, optuna, kubernetes or kopf."""
    code = (
        "import sys; from kubeautoml.cli.main import main; main(['--help']);"
        "print([m for m in ('pandas', 'numpy', 'torch', 'optuna', 'kubernetes', 'kopf', 'boto3') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"
