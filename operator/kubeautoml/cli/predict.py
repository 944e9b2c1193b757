"""`kubectl automl predict NAME`: send rows to a job's endpoint; with `--model URI`, predict from a bundle."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from kubeautoml.api.conditions import ConditionStatus, find_condition
from kubeautoml.api.errors import ClusterError, PredictionError, UsageError
from kubeautoml.api.names import server_name
from kubeautoml.cli.parser import VerbParser
from kubeautoml.cli.rows import Form, Record, Writer, batches, form_of, opened, read_rows

if TYPE_CHECKING:
    from kubeautoml.api.job import AutoMLJob
    from kubeautoml.cluster.kube import KubeCluster

TIMEOUT_SECONDS = 60

Ask = Callable[[list[Record]], dict[str, Any]]


def main(argv: list[str]) -> int:
    if any(a == "--model" or a.startswith("--model=") for a in argv):
        from kubeautoml.cli.main import trainer_command

        return trainer_command("predict")(argv)
    return predict_by_name(argv)


def parser() -> VerbParser:
    from kubeautoml.cli.connection import add_connection, add_name

    made = VerbParser(
        "predict",
        __doc__,
        "kubectl automl predict churn -i new.csv -o predicted.csv",
        """echo '{"age": 42, "plan": "basic"}' | kubectl automl predict churn""",
        "kubeautoml predict --model s3://models/.../model --input new.parquet --output predicted.parquet",
    )
    made.description = (
        "Send rows to a job's endpoint, through the API server, so that no way into the cluster's network is needed. "
        "With --model URI, predict from a bundle instead: see `kubeautoml predict --model x --help`."
    )
    add_name(made)
    made.add_argument("-i", "--input", default="-", metavar="FILE",
                      help="CSV, TSV, JSON or JSON lines; default: standard input")  # fmt: skip
    made.add_argument("-o", "--output", default="-", metavar="FILE",
                      help="where to write predictions, by its name as CSV, TSV or JSON lines; default: standard output")  # fmt: skip
    made.add_argument(
        "--format", choices=[f.value for f in Form], help="of the input; default: by its name, or its first sign"
    )
    made.add_argument(
        "--to", choices=[f.value for f in Form], help="of the output; default: by its name, or as the input"
    )
    made.add_argument(
        "--batch", type=int, default=1000, metavar="ROWS", help="rows of one request; default: %(default)s"
    )
    made.add_argument(
        "--port-forward",
        action="store_true",
        help="through `kubectl port-forward`, where the API server's proxy may not be used",
    )
    made.add_argument(
        "--url", help="where the endpoint answers, such as http://127.0.0.1:8080; default: through the API server"
    )
    add_connection(made)
    return made


def predict_by_name(argv: list[str]) -> int:
    """POST records to the endpoint, batch by batch."""
    args = parser().parse_args(argv)
    if not 1 <= args.batch <= 100_000:
        raise UsageError(f"--batch must be between 1 and 100000, got {args.batch}")
    to = Form(args.to) if args.to else form_of(args.output)
    if args.output != "-" and to is None:
        raise UsageError(f"--output must end in .csv, .tsv or .jsonl, or --to must say its form, got {args.output}")
    if args.port_forward and not args.url:
        with forwarded(args) as url:
            return _predict_all(partial(post, f"{url}/v1/predict"), args, to)
    ask = partial(post, f"{args.url.rstrip('/')}/v1/predict") if args.url else _by_proxy(args)
    return _predict_all(ask, args, to)


def _predict_all(ask: Ask, args: argparse.Namespace, to: Form | None) -> int:
    with opened(args.input) as stream:
        form, records = read_rows(stream, args.input, Form(args.format) if args.format else form_of(args.input))
        if form is Form.JSON and to is None:
            # what is asked in JSON is answered in the endpoint's own words
            print(json.dumps(ask(list(records)), ensure_ascii=False))
            return 0
        rows = _predict(ask, records, args, to or form)
    if not rows:
        raise UsageError(f"{args.input} has no rows")
    if args.output != "-":
        print(f"{rows} predictions written to {args.output}", file=sys.stderr)
    return 0


def _predict(ask: Ask, records: Iterator[Record], args: argparse.Namespace, to: Form) -> int:
    """Ask batch by batch; the number of rows."""
    rows = 0
    with _written(args.output) as out:
        writer = Writer(out, to)
        for batch in batches(records, args.batch):
            try:
                answer = ask(batch)
            except PredictionError as error:
                where = f"rows {rows} to {rows + len(batch) - 1} of {args.input}: " if rows else ""
                raise PredictionError(f"{where}{error}") from error
            writer.write(answer["predictions"])
            rows += len(batch)
    return rows


@contextmanager
def _written(file: str) -> Iterator[TextIO]:
    """The output, which appears only when it is whole."""
    if file == "-":
        yield sys.stdout
        return
    target = Path(file)
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", dir=target.parent, delete=False) as part:
            try:
                yield cast(TextIO, part)
            except BaseException:
                Path(part.name).unlink()
                raise
        Path(part.name).chmod(0o644)
        Path(part.name).replace(target)
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from error


def _by_proxy(args: argparse.Namespace) -> Ask:
    """Asks through the API server.

    Raises:
        ClusterError: there is no such job, or it has no endpoint; says why.
    """
    from kubeautoml.cli.connection import connect

    cluster = connect(args)
    return partial(_ask_service, cluster, _served_job(args, cluster))


def _served_job(args: argparse.Namespace, cluster: KubeCluster) -> AutoMLJob:
    from kubeautoml.cli.connection import as_job, get_job

    job = as_job(get_job(args, cluster))
    if (why := no_endpoint(job)) is not None:
        raise ClusterError(why, reason="NotServed")
    return job


@contextmanager
def forwarded(args: argparse.Namespace) -> Iterator[str]:
    """A way to the endpoint that kubectl opens, on a port of its choice; its URL here.

    Raises:
        ClusterError: kubectl is not there, or cannot; says what it said.
    """
    from kubeautoml.cli.connection import connect

    meta = _served_job(args, connect(args)).metadata
    flags = [f"--{name}={value}" for name in ("context", "kubeconfig") if (value := getattr(args, name))]
    command = ["kubectl", "port-forward", *flags, "-n", meta.namespace, f"service/{server_name(meta.name)}", ":http"]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except OSError as error:
        raise ClusterError(
            "--port-forward needs kubectl on the PATH; leave it out to go through the API server"
        ) from error
    try:
        assert process.stdout is not None and process.stderr is not None
        said = re.match(r"Forwarding from 127\.0\.0\.1:(\d+)", process.stdout.readline())
        if said is None:
            words = " ".join(process.stderr.read().split()) or "it ended without a word"
            raise ClusterError(
                f"kubectl port-forward cannot reach AutoMLJob '{meta.name}': {words.removeprefix('error: ')}"
            )
        yield f"http://127.0.0.1:{said[1]}"
    finally:
        process.terminate()
        process.wait()


def _ask_service(cluster: KubeCluster, job: AutoMLJob, records: list[Record]) -> dict[str, Any]:
    from kubeautoml.cli.connection import wait_for

    meta = job.metadata
    try:
        return wait_for(
            cluster.service_post(meta.namespace, server_name(meta.name), "http", "v1/predict", {"instances": records})
        )
    except ClusterError as error:
        if error.reason == "Forbidden":
            raise ClusterError(
                f"{error}; ask for the right to create services/proxy, or go round it with --port-forward",
                reason=error.reason,
            ) from error
        raise ClusterError(
            f"the endpoint of AutoMLJob '{meta.name}' does not answer: {error}; see kubectl automl status {meta.name}",
            reason=error.reason,
        ) from error


def no_endpoint(job: AutoMLJob) -> str | None:
    """Why a job has nothing that could answer; None when it has. A new version that is not ready leaves the old one answering."""
    name, status = job.metadata.name, job.status
    ready = find_condition(status.conditions, "Ready")
    said = (
        f"{ready.reason}: {ready.message}"
        if ready is not None and ready.message
        else ready.reason
        if ready
        else "Pending"
    )
    if status.model is None:
        return f"AutoMLJob '{name}' has no model yet ({said}); wait for it with: kubectl automl status {name} --watch"
    if status.serving is not None or (ready is not None and ready.status is ConditionStatus.TRUE and job.spec.serving):
        return None
    if job.spec.serving is None:
        return (
            f"AutoMLJob '{name}' is not served; set spec.serving in its manifest, or predict from its bundle: "
            f"kubeautoml predict --model {status.model.uri} --input FILE --output FILE"
        )
    return f"AutoMLJob '{name}' is not served ({said})"


def post(url: str, records: list[Record]) -> dict[str, Any]:
    """The endpoint's answer.

    Raises:
        PredictionError: it refused the rows, in its own words.
        ClusterError: nothing answers there, or not as an endpoint does.
    """
    body = json.dumps({"instances": records}).encode()
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        raise PredictionError(f"{url} answered {error.code}: {_reason(error.read())}") from error
    except OSError as error:
        raise ClusterError(f"nothing answers at {url}: {error}; is the endpoint ready?") from error
    except ValueError as error:
        raise ClusterError(f"{url} must be the address of an endpoint: {error}") from error
    if not isinstance(answer, dict) or not isinstance(answer.get("predictions"), list):
        raise ClusterError(f"{url} answers, but not with predictions; is it the address of an endpoint?")
    return answer


def _reason(body: bytes) -> str:
    """The sentence in {"error": ...}, or what else came."""
    text = body.decode(errors="replace")
    try:
        said = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        return text[:500]
    return str(said)
