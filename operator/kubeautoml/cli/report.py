"""`kubectl automl report NAME`: fetch the HTML report of a finished job with your own storage credentials."""

from __future__ import annotations

import argparse
from pathlib import Path

from kubeautoml.api.errors import ObjectNotFound
from kubeautoml.cli.connection import add_connection, as_job, connect, get_job
from kubeautoml.storage import open_store


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="kubectl automl report", description=__doc__)
    parser.add_argument("name", help="name of the AutoMLJob")
    parser.add_argument("-O", "--output-file", help="where to write it; default: NAME-report.html")
    add_connection(parser)
    args = parser.parse_args(argv)
    job = as_job(get_job(args, connect(args)))
    uri = job.status.artifacts.report_uri if job.status.artifacts else None
    if uri is None:
        raise ObjectNotFound(f"AutoMLJob '{args.name}' has no report yet; it is written when the search has ended")
    target = Path(args.output_file or f"{args.name}-report.html")
    open_store(uri).download(uri, target)
    print(f"{target} written from {uri}")
    return 0
