"""Completion: as the real kubectl asks for it, as bash does, and in a cluster that does not answer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tomllib
from io import StringIO
from pathlib import Path

import pytest

from cli.clusters import Cluster
from kubeautoml.cli.complete import candidates
from kubeautoml.cli.main import CLUSTER_VERBS, VERBS, main
from observability.exported import ROOT


def words(found: list[str]) -> list[str]:
    """Without what they mean."""
    return [c.split("\t")[0] for c in found]


def test_verbs_are_offered_with_what_they_do():
    """In the order of the help."""
    found = candidates([], "")

    assert [c for c in words(found) if not c.startswith("-")] == list(VERBS)
    assert "list\tlist jobs in a cluster" in found
    assert words(candidates([], "sus")) == ["suspend"]


def test_an_error_stream_that_was_closed_meanwhile_is_not_used(monkeypatch: pytest.MonkeyPatch):
    """argcomplete keeps the one of its import; and whatever fails leaves nothing behind in the environment."""
    from argcomplete import io as argcomplete_io

    closed = StringIO()
    closed.close()
    monkeypatch.setattr(argcomplete_io, "debug_stream", closed)

    assert words(candidates([], "sus")) == ["suspend"]
    with pytest.raises(KeyError):
        monkeypatch.setattr("kubeautoml.cli.complete.whole_parser", lambda words: {}["no parser"])
        candidates([], "sus")
    assert "_ARGCOMPLETE" not in os.environ


@pytest.mark.parametrize(
    ("line", "word", "expected"),
    [
        (["list"], "--all", ["--all-namespaces"]),
        (["list", "-o"], "", ["json", "yaml", "name", "wide"]),
        (["leaderboard", "churn", "--output"], "n", ["name"]),
        (["logs", "churn", "-c"], "", ["worker", "finalizer", "server"]),
        (["-n", "team-a", "list"], "--no-h", ["--no-headers"]),
        (["completion"], "", ["--help", "bash", "zsh", "fish"]),
    ],
)
def test_flags_and_their_values_are_offered(line: list[str], word: str, expected: list[str]):
    """Of the verb that was typed."""
    assert words(candidates(line, word)) == expected


def test_files_are_offered_where_files_are_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """For -f and -i; jobs have no part in it."""
    (tmp_path / "churn.yaml").touch()
    monkeypatch.chdir(tmp_path)

    assert words(candidates(["diff", "-f"], "chu")) == ["churn.yaml"]


def test_a_cluster_that_does_not_answer_offers_nothing(tmp_path: Path):
    """And does not keep the shell waiting."""
    file = tmp_path / "kubeconfig"
    file.write_text(
        '{"contexts": [{"name": "far", "context": {"cluster": "c", "user": "u"}}], "current-context": "far", '
        '"clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:9"}}], "users": [{"name": "u", "user": {}}]}'
    )
    began = time.monotonic()

    found = words(candidates(["status", "--kubeconfig", str(file)], ""))

    assert [c for c in found if not c.startswith("-")] == []
    assert time.monotonic() - began < 30
    assert words(candidates(["status", "--kubeconfig", str(file), "--context"], "")) == ["far"]
    assert words(candidates(["status", "--kubeconfig", str(tmp_path / "gone"), "--context"], "")) == []


@pytest.mark.controlplane
def test_kubectl_completes_names_from_the_cluster(cluster: Cluster, tmp_path: Path):
    """The real kubectl finds kubectl_complete-automl on the PATH, and asks it."""
    cluster.create("churn")
    cluster.create("chairs")
    program = tmp_path / "kubectl_complete-automl"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m kubeautoml.cli.complete "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "KUBECONFIG": cluster.flags[1]}

    def ask(*line: str) -> list[str]:
        command = ["kubectl", "__complete", "automl", *line]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    assert ask("status", "-n", cluster.namespace, "ch") == ["chairs", "churn", ":4"]
    assert ask("logs", "-n", cluster.namespace[:-1]) == [cluster.namespace, ":4"]
    assert {c.split("\t")[0] for c in ask("")} == {*CLUSTER_VERBS, ":4"}
    assert ask("st") == ["status\tshow one job in a cluster", ":4"]
    assert ask("lead") == ["leaderboard\tshow a job's best trials", ":4"]


@pytest.mark.controlplane
def test_bash_completes_the_command(cluster: Cluster, tmp_path: Path):
    """What `kubeautoml completion bash` prints, read by a real bash that then asks as on TAB."""
    cluster.create("churn")
    program = tmp_path / "kubeautoml"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m kubeautoml.cli.main "$@"\n')
    program.chmod(0o755)
    line = f"kubeautoml status -n {cluster.namespace} ch"
    script = f"""
        source <(kubeautoml completion bash)
        COMP_LINE='{line}' COMP_POINT={len(line)} COMP_TYPE=9 COMP_WORDS=({line}) COMP_CWORD=4
        _python_argcomplete kubeautoml ch ''
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "KUBECONFIG": cluster.flags[1]}

    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)

    assert done.stdout.split() == ["churn"], done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_is_told_of_both_names(shell: str, capsys: pytest.CaptureFixture[str]):
    """kubeautoml and kubectl-automl are one program."""
    assert main(["completion", shell]) == 0

    printed = capsys.readouterr().out
    assert "kubeautoml" in printed
    assert "kubectl-automl" in printed


def test_the_program_that_kubectl_looks_for_is_installed():
    """By this name exactly."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

    assert scripts["kubectl_complete-automl"] == "kubeautoml.cli.complete:main"
