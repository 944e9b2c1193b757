"""`kubectl automl predict NAME`: send rows to a job's endpoint; with `--model URI`, predict from a bundle."""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from kubeautoml.api.errors import ClusterError, PredictionError, UsageError
from kubeautoml.api.names import server_name


def main(argv: list[str]) -> int:
    if any(a == "--model" or a.startswith("--model=") for a in argv):
        from kubeautoml.cli.main import trainer_command

        return trainer_command("predict")(argv)
    return predict_by_name(argv)


def predict_by_name(argv: list[str]) -> int:
    """POST records to the endpoint, through the API server's proxy unless --url says where it answers."""
    from kubeautoml.cli.connection import add_connection, connect, get_job, wait_for

    parser = argparse.ArgumentParser(
        prog="kubectl automl predict",
        description=__doc__,
        epilog="Batch predictions from a bundle: kubeautoml predict --model URI --input FILE --output FILE",
    )
    parser.add_argument("name", help="name of the AutoMLJob")
    parser.add_argument(
        "-i", "--input", required=True, help="JSON record, JSON array of records or JSON lines; - for standard input"
    )
    parser.add_argument(
        "--url", help="address of the endpoint, such as http://127.0.0.1:8080; default: through the API server"
    )
    add_connection(parser)
    args = parser.parse_args(argv)
    records = read_records(args.input)
    if args.url:
        print(post(f"{args.url.rstrip('/')}/v1/predict", records))
        return 0
    cluster = connect(args)
    namespace = get_job(args, cluster)["metadata"]["namespace"]
    body = {"instances": records}
    answer = wait_for(cluster.service_post(namespace, server_name(args.name), "http", "v1/predict", body))
    print(json.dumps(answer))
    return 0


def read_records(file: str) -> list[dict[str, Any]]:
    """Records from a JSON or JSON-lines file.

    Raises:
        UsageError: the file cannot be read, or is neither.
    """
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    try:
        loaded = json.loads(text)
    except json.JSONDecodeError:
        try:
            loaded = [json.loads(line) for line in text.splitlines() if line.strip()]
        except json.JSONDecodeError as error:
            raise UsageError(f"{file} must hold JSON records: {error}") from error
    records = loaded.get("instances", [loaded]) if isinstance(loaded, dict) else loaded
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records) or not records:
        raise UsageError(f'{file} must hold records such as {{"age": 42}}, or a list of them')
    return records


def post(url: str, records: list[dict[str, Any]]) -> str:
    """The endpoint's answer.

    Raises:
        PredictionError: it refused the rows, in its own words.
        ClusterError: nothing answers there.
    """
    body = json.dumps({"instances": records}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return str(response.read().decode())
    except urllib.error.HTTPError as error:
        raise PredictionError(f"{url} answered {error.code}: {error.read().decode(errors='replace')}") from error
    except OSError as error:
        raise ClusterError(f"nothing answers at {url}: {error}; is the endpoint ready?") from error
