"""`kubectl automl list`: the jobs of a namespace, with state, trials, best score and endpoint."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from kubeautoml.api.job import AutoMLJob
from kubeautoml.cli.connection import add_connection, add_output, as_job, connect, namespace_of, print_objects, wait_for
from kubeautoml.cli.view import age, metric_of, short_number, state


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="kubectl automl list", description=__doc__)
    add_connection(parser, all_namespaces=True)
    add_output(parser, "json", "yaml", "name", "wide")
    args = parser.parse_args(argv)
    cluster = connect(args)
    namespace = None if args.all_namespaces else namespace_of(args, cluster)
    objects = sorted(
        wait_for(cluster.list("AutoMLJob", namespace)),
        key=lambda o: (o["metadata"]["namespace"], o["metadata"]["name"]),
    )
    if args.output in ("json", "yaml", "name"):
        print_objects(objects, args.output, as_list=True)
        return 0
    if not objects:
        where = "" if namespace is None else f" in namespace {namespace}"
        print(f"No AutoMLJobs found{where}.", file=sys.stderr)
        return 0
    jobs = [as_job(o) for o in objects]
    table = jobs_table(jobs, wide=args.output == "wide", with_namespace=namespace is None)
    Console(width=500).print(table)
    return 0


def jobs_table(jobs: list[AutoMLJob], *, wide: bool, with_namespace: bool) -> Table:
    """One line a job."""
    now = datetime.now(UTC)
    table = Table(box=None, pad_edge=False, header_style="")
    names = ["NAMESPACE"] * with_namespace + ["NAME", "STATE", "TRIALS", "BEST", "PROGRESS", "URL", "AGE"]
    for name in names + ["METRIC", "FAMILY", "MODEL"] * wide:
        table.add_column(name, no_wrap=True)
    for job in jobs:
        table.add_row(*_row(job, now, wide=wide, with_namespace=with_namespace))
    return table


def _row(job: AutoMLJob, now: datetime, *, wide: bool, with_namespace: bool) -> list[str]:
    status, best = job.status, job.status.best
    row = [job.metadata.namespace] * with_namespace
    row += [job.metadata.name, state(job), str(status.trials.total), short_number(best.value if best else None)]
    row += [f"{status.progress_percentage}%", (status.serving.url if status.serving else None) or "", age(job, now)]
    if wide:
        row += [metric_of(job), best.family if best else "", status.model.name if status.model else ""]
    return row
