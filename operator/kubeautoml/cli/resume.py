"""`kubectl automl resume NAME`: go on with a suspended job."""

from __future__ import annotations

from kubeautoml.cli.parser import VerbParser
from kubeautoml.cli.suspend import set_suspend, switch_parser


def parser() -> VerbParser:
    return switch_parser("resume", __doc__)


def main(argv: list[str]) -> int:
    return set_suspend(parser(), argv, suspend=False)
