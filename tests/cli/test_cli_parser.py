"""How the verbs read their flags: as kubectl does, with one line for what does not fit and an example in every help."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

from kubeautoml.api.errors import UsageError
from kubeautoml.cli.main import CLUSTER_VERBS, VERBS, main
from kubeautoml.cli.parser import VerbParser


def make_parser() -> VerbParser:
    parser = VerbParser("try", "`kubectl automl try NAME`: try it.", "kubectl automl try churn")
    parser.add_argument("name")
    parser.add_argument("-f", "--follow", action="store_true")
    return parser


@pytest.mark.parametrize(
    ("argv", "follow"),
    [
        (["x", "--follow"], True),
        (["x", "--follow=true"], True),
        (["--follow=false", "x"], False),
        (["x", "--follow", "--follow=false"], True),
        (["--", "--follow=true"], False),
    ],
)
def test_switches_are_spelled_as_kubectl_spells_them(argv: list[str], follow: bool):
    """--flag, --flag=true, --flag=false; what stands after -- is no flag."""
    assert make_parser().parse_args(argv).follow is follow


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "the following arguments are required: name; see kubectl automl try --help"),
        (
            ["x", "--follow=maybe"],
            "argument -f/--follow: ignored explicit argument 'maybe'; see kubectl automl try --help",
        ),
        (["x", "--foll"], "unrecognized arguments: --foll; see kubectl automl try --help"),
    ],
)
def test_what_does_not_fit_is_one_line(argv: list[str], said: str):
    """An error of ours instead of argparse's usage, and no abbreviations: a new flag must not change what an old one meant."""
    with pytest.raises(UsageError) as raised:
        make_parser().parse_args(argv)

    assert str(raised.value) == said


@pytest.mark.parametrize("verb", CLUSTER_VERBS)
def test_every_verb_s_help_has_an_example(verb: str, capsys: pytest.CaptureFixture[str]):
    """Usage, what it does, each flag with words, and a command to copy."""
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])

    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: kubectl automl {verb} ")
    assert f"\n  kubectl automl {verb}" in shown[shown.index("\nExample") :]
    for action in import_module(VERBS[verb][0]).parser()._actions:
        assert action.help, f"{verb} {action.option_strings or action.dest} must say what it does"
    assert all(len(line) <= 80 for line in shown[: shown.index("\nExample")].splitlines())


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["-n", "team-a"], "a verb must follow the flags; see kubeautoml --help"),
        (["-A", "list"], "-A must follow the verb, as in: kubectl automl list -A; see kubeautoml --help"),
        (["lst"], "'lst' is not a verb of kubeautoml; did you mean 'list'?; see kubeautoml --help"),
        (["list", "-o", "xml"], "argument -o/--output: invalid choice: 'xml'"),
        (["status", "pod/x"], "NAME must be that of an AutoMLJob, such as churn or automljob/churn, got 'pod/x'"),
    ],
)
def test_misuse_is_one_line_and_exit_2(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    """No usage, no traceback."""
    assert main(argv) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {said}")
    assert printed.err.count("\n") == 1


def test_the_connection_may_stand_before_the_verb(capsys: pytest.CaptureFixture[str]):
    """`kubectl automl -n team-a list` is what fingers type."""
    assert main(["-n", "team-a", "--kubeconfig=/nowhere/kubeconfig", "list"]) == 1

    assert re.match("error: kubeconfig /nowhere/kubeconfig cannot be used", capsys.readouterr().err)
