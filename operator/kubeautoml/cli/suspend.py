"""`kubectl automl suspend NAME`: stop a job's pods and keep its finished trials; `resume` goes on from there."""

from __future__ import annotations

import argparse

from kubeautoml.api.objects import Ref
from kubeautoml.cli.connection import add_connection, connect, get_job, wait_for


def main(argv: list[str]) -> int:
    return set_suspend(argv, verb="suspend", suspend=True)


def set_suspend(argv: list[str], *, verb: str, suspend: bool) -> int:
    """Patch spec.suspend, which is all that either verb does."""
    parser = argparse.ArgumentParser(
        prog=f"kubectl automl {verb}", description=f"Set spec.suspend to {str(suspend).lower()}."
    )
    parser.add_argument("name", help="name of the AutoMLJob")
    add_connection(parser)
    args = parser.parse_args(argv)
    cluster = connect(args)
    job = get_job(args, cluster)
    changed = bool(job["spec"].get("suspend", False)) != suspend
    if changed:
        wait_for(cluster.merge_patch(Ref.of(job), {"spec": {"suspend": suspend}}))
    print(
        f"automljob.kubeautoml.dev/{args.name} {verb}{'d' if verb.endswith('e') else 'ed'}"
        + ("" if changed else " (no change)")
    )
    return 0
