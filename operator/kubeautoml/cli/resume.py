"""`kubectl automl resume NAME`: go on with a suspended job."""

from __future__ import annotations

from kubeautoml.cli.suspend import set_suspend


def main(argv: list[str]) -> int:
    return set_suspend(argv, verb="resume", suspend=False)
