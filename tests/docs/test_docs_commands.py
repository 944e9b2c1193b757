"""Every command in the documentation names programs, verbs, flags and files that are there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from docs.command_rules import ELSEWHERE, RULES, SHELL, command_trouble, commands
from docs.markdown_files import ROOT, Block, blocks, markdown_files, prose

SCRIPTS = blocks("bash", "sh", "shell", "console")


@pytest.mark.parametrize("block", SCRIPTS, ids=str)
def test_a_script_in_the_documentation_is_one(block: Block) -> None:
    """bash takes its syntax, and each command in it is one of a program that has such a verb, such flags and such files."""
    syntax = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)

    assert syntax.returncode == 0, syntax.stderr
    assert [(" ".join(c), said) for c in commands(block.text) if (said := command_trouble(c))] == []


INLINE = re.compile(r"`((?:kubectl|kubeautoml|make|helm|python|scripts/[\w-]+)(?: [^`]+)?)`")


@pytest.mark.parametrize("file", markdown_files(), ids=lambda f: str(f.relative_to(ROOT)))
def test_a_command_in_a_sentence_is_one(file: Path) -> None:
    """As in a script, but its arguments may be left out."""
    found = [c for text in INLINE.findall(prose(file)) for c in commands(text.replace("\n", " ").rstrip(":"))]

    said = [(" ".join(c), trouble) for c in found if len(c) > 1 and (trouble := command_trouble(c))]
    assert [s for s in said if not re.search("(are|is) required$|are required:", s[1])] == []


def test_what_is_not_looked_at_has_a_reason_and_is_there() -> None:
    """A program is checked by a rule, is part of any shell, or stands among those elsewhere with a reason; never two of these."""
    named = {command[0] for block in SCRIPTS for command in commands(block.text)}

    assert not set(ELSEWHERE) & (set(RULES) | SHELL)
    assert set(ELSEWHERE) <= named


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("kubeautoml runn -f job.yaml", "no verb"),
        ("kubeautoml run --flie job.yaml", "-f/--filename"),
        ("kubeautoml serve --port many", "invalid int"),
        ("kubectl automl status titanic --wach", "--wach"),
        ("kubectl apply -f examples/absent.yaml", "no file"),
        ("kubectl apply -k kustomize/absent", "no file"),
        ("kubectl get automljob -o wide | kubectl aply -f -", "no verb aply"),
        ("kubectl get autojobs", "no kind"),
        ("kubectl get pods --wide", "--wide"),
        ("kubectl -n NS logs deploy/a --tial=3", "--tial"),
        ("make absent", "absent"),
        ("python examples/absent.py", "no examples/absent.py"),
        ("helm instal kubeautoml helm/kubeautoml", "no verb"),
        ("helm upgrade kubeautoml helm/kubeautoml --reuse-valeus", "no flag"),
        ("pip install 'kubeautoml[absent]'", "no extra"),
        ("A=$(kubectl gett pods) && echo $A", "no verb gett"),
        ("docer run x", "no rule"),
        ("for k in a b; do kubectl auth can-j watch $k; done", "no verb"),
    ],
)
def test_a_wrong_command_would_be_found(script: str, said: str) -> None:
    assert said in str([command_trouble(c) for c in commands(script)])


def test_quotations_and_comments_are_no_commands() -> None:
    script = "echo 'kubectl aply' # kubectl aply\ncat <<EOF\nkubectl aply\nEOF\nkubectl get pods -o jsonpath='{.a}' \\\n  -n b\n"

    assert list(commands(script)) == [
        ["echo", "kubectl aply"],
        ["cat"],
        ["kubectl", "get", "pods", "-o", "jsonpath={.a}", "-n", "b"],
    ]
