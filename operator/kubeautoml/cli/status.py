"""`kubectl automl status NAME`: one job, its conditions, best trials and artifacts; -w keeps watching until it ends."""

from __future__ import annotations

import argparse
import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from kubeautoml.api.job import AutoMLJob
from kubeautoml.cli.connection import add_connection, add_output, as_job, connect, get_job, print_objects
from kubeautoml.cli.view import conditions_table, live_view, variants_table


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="kubectl automl status", description=__doc__)
    parser.add_argument("name", help="name of the AutoMLJob")
    parser.add_argument("-w", "--watch", action="store_true", help="keep the view up to date until the job has ended")
    add_connection(parser)
    add_output(parser, "json", "yaml")
    args = parser.parse_args(argv)
    cluster = connect(args)
    manifest = get_job(args, cluster)
    if args.output:
        print_objects([manifest], args.output, as_list=False)
        return 0
    console = Console()
    if args.watch:
        with Live(live_view(as_job(manifest)), console=console, auto_refresh=False) as live:
            while as_job(manifest).status.completion_time is None:
                time.sleep(2)
                manifest = get_job(args, cluster)
                live.update(live_view(as_job(manifest)), refresh=True)
    show(as_job(manifest), console)
    return 0


def show(job: AutoMLJob, console: Console) -> None:
    """Everything a person asks of a job, on one screen."""
    console.print(live_view(job))
    console.print()
    console.print(conditions_table(job))
    if job.status.model is not None and job.status.model.variants:
        console.print()
        console.print(variants_table(job))
    facts = {
        "Model": job.status.model.uri if job.status.model else None,
        "Endpoint": job.status.serving.url if job.status.serving else None,
        "Report": job.status.artifacts.report_uri if job.status.artifacts else None,
    }
    for name, value in facts.items():
        if value:
            console.print(Text(f"{name + ':':<10}{value}"), soft_wrap=True)
