"""`kubectl automl leaderboard NAME`: the ten best trials, and the forms of the finished model."""

from __future__ import annotations

import argparse

from rich.console import Console

from kubeautoml.cli.connection import add_connection, add_output, as_job, connect, get_job
from kubeautoml.cli.manifests import to_json, to_yaml
from kubeautoml.cli.view import leaderboard_table, variants_table


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="kubectl automl leaderboard", description=__doc__)
    parser.add_argument("name", help="name of the AutoMLJob")
    add_connection(parser)
    add_output(parser, "json", "yaml")
    args = parser.parse_args(argv)
    job = as_job(get_job(args, connect(args)))
    rows = [t.to_manifest() for t in job.status.leaderboard]
    if args.output:
        print(to_json(rows) if args.output == "json" else to_yaml(rows))  # type: ignore[arg-type]
    elif rows:
        console = Console()
        console.print(leaderboard_table(job))
        if job.status.model is not None and job.status.model.variants:
            console.print()
            console.print(variants_table(job))
    else:
        print(f"AutoMLJob {job.metadata.name} has no completed trial yet")
    return 0
