"""`kubectl automl leaderboard NAME`: the ten best trials, and the forms of the finished model."""

from __future__ import annotations

import sys

from kubeautoml.cli.connection import add_connection, add_name, add_output, as_job, connect, get_job
from kubeautoml.cli.manifests import to_json, to_yaml
from kubeautoml.cli.parser import VerbParser
from kubeautoml.cli.view import leaderboard_table, output_console, variants_table


def parser() -> VerbParser:
    made = VerbParser(
        "leaderboard",
        __doc__,
        "kubectl automl leaderboard churn",
        "kubectl automl leaderboard churn -o json | jq '.[0].parameters'",
    )
    add_name(made)
    add_connection(made)
    add_output(made, "json", "yaml", "name", "wide")
    return made


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    job = as_job(get_job(args, connect(args)))
    rows = [t.to_manifest() for t in job.status.leaderboard]
    if args.output in ("json", "yaml"):
        sys.stdout.write(to_json(rows) + "\n" if args.output == "json" else to_yaml(rows))
    elif args.output == "name":
        for trial in job.status.leaderboard:
            print(f"trial/{trial.trial}")
    elif rows:
        console = output_console(width=500 if args.output == "wide" else None)
        console.print(leaderboard_table(job))
        if job.status.model is not None and job.status.model.variants:
            console.print()
            console.print(variants_table(job))
    else:
        print(f"AutoMLJob {job.metadata.name} has no completed trial yet", file=sys.stderr)
    return 0
