"""`kubectl automl list`: the jobs of a namespace, with state, trials, best score and endpoint."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

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
        print("No AutoMLJobs found" + ("." if namespace is None else f" in namespace {namespace}."))
        return 0
    now = datetime.now(UTC)
    table = Table(box=None, pad_edge=False, header_style="")
    columns = ["NAME", "STATE", "TRIALS", "BEST", "PROGRESS", "URL", "AGE"]
    columns = (["NAMESPACE"] if namespace is None else []) + columns
    columns += ["METRIC", "FAMILY", "MODEL"] if args.output == "wide" else []
    for name in columns:
        table.add_column(name, no_wrap=True)
    for manifest in objects:
        job = as_job(manifest)
        s = job.status
        row = [job.metadata.namespace] if namespace is None else []
        row += [job.metadata.name, state(job), str(s.trials.total), short_number(s.best.value if s.best else None)]
        row += [f"{s.progress_percentage}%", (s.serving.url if s.serving else None) or "", age(job, now)]
        if args.output == "wide":
            row += [metric_of(job), s.best.family if s.best else "", s.model.name if s.model else ""]
        table.add_row(*row)
    Console(width=200, soft_wrap=True).print(table)
    return 0
