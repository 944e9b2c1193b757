"""`kubectl automl list`: the jobs of a namespace, with state, trials, best score and endpoint."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from rich.table import Table

from kubeautoml.api.job import AutoMLJob
from kubeautoml.cli.connection import (
    add_connection,
    add_output,
    add_selector,
    as_job,
    connect,
    namespace_of,
    print_objects,
    wait_for,
)
from kubeautoml.cli.parser import VerbParser
from kubeautoml.cli.view import age, metric_of, output_console, plain_table, short_number, state


def parser() -> VerbParser:
    made = VerbParser(
        "list",
        __doc__,
        "kubectl automl list",
        "kubectl automl list -A -l team=risk -o wide",
        "kubectl automl list -o name",
    )
    add_connection(made, all_namespaces=True)
    add_selector(made)
    add_output(made, "json", "yaml", "name", "wide")
    made.add_argument("--no-headers", action="store_true", help="no line of headers")
    return made


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    cluster = connect(args)
    namespace = None if args.all_namespaces else namespace_of(args, cluster)
    objects = sorted(
        wait_for(cluster.select("AutoMLJob", namespace, args.selector)),
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
    table.show_header = not args.no_headers
    output_console(width=500).print(table)
    return 0


def jobs_table(jobs: list[AutoMLJob], *, wide: bool, with_namespace: bool) -> Table:
    """One line a job."""
    now = datetime.now(UTC)
    names = ["NAMESPACE"] * with_namespace + ["NAME", "STATE", "TRIALS", "BEST", "PROGRESS", "URL", "AGE"]
    table = plain_table(*names, *["METRIC", "FAMILY", "MODEL"] * wide, header_style="")
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
