"""`kubeautoml study-server`: Optuna's storage protocol over gRPC in front of one database, for any number of workers.

It keeps nothing but caches, so it may be killed and started again at any time; several may serve one PostgreSQL.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any

import grpc

from kubeautoml.api.errors import StudyError, UsageError
from kubeautoml.api.logs import log_to_stderr
from kubeautoml.study.backend import Database
from kubeautoml.study.base import shown
from kubeautoml.study.certificate import Certificate
from kubeautoml.study.database import is_away, open_backend
from kubeautoml.study.guard import Guard
from kubeautoml.study.identity import Api, Callers
from kubeautoml.study.kube_api import KubeApi
from kubeautoml.study.monitor import Metrics, Monitor, Readiness, health_handler, serve_http
from kubeautoml.study.service import add_calls

log = logging.getLogger(__name__)

_THREADS = 32
_CONNECTIONS = 16
_GRACE_SECONDS = 10.0
_ACCOUNT = re.compile(r"system:serviceaccount:[a-z0-9-]+:[a-z0-9.-]+")
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # else a second server on this port starts in silence and takes half of the calls
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
]


class StudyServer:
    """A running server. `port` is the one it got, when 0 was asked for.

    Args:
        certificate: speak TLS with it.
        api: API server that says who calls; None lets everybody in, for one's own machine.
        operators: service accounts that may touch every study.
    """

    def __init__(
        self,
        database: Database,
        listen: str,
        certificate: Certificate | None = None,
        api: Api | None = None,
        operators: Iterable[str] = (),
        metrics: Metrics | None = None,
    ) -> None:
        self._database = database
        self.metrics = metrics or Metrics()
        database.on_trial_end = lambda state, seconds: self.metrics.trial_ended(state.name, seconds)
        self.is_ready = Readiness(database.engine.url, dict(database.engine_kwargs.get("connect_args", {})))
        interceptors: tuple[Any, ...] = (Monitor(self.metrics),)
        if api is not None:
            callers = Callers(api, frozenset(operators), count=lambda result: self.metrics.tokens.labels(result).inc())
            interceptors += (Guard(callers, database, self.metrics),)
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers=_THREADS), interceptors=interceptors, options=_OPTIONS
        )
        add_calls(self._server, database)
        self._server.add_generic_rpc_handlers((health_handler(self.is_ready),))
        self.port = self._bind(listen, certificate)

    def _bind(self, listen: str, certificate: Certificate | None) -> int:
        try:
            if certificate is None:
                return int(self._server.add_insecure_port(listen))
            return int(self._server.add_secure_port(listen, certificate.server_credentials()))
        except RuntimeError as error:
            raise StudyError(
                f"study server cannot listen on {listen}; choose a free port and an own address"
            ) from error

    def start(self) -> None:
        self._server.start()

    @property
    def is_busy(self) -> bool:
        """Whether calls are being answered, be it for callers that have gone."""
        return self.metrics.open_calls() > 0

    def stop(self) -> None:
        """Refuse new calls, which clients then send again, answer those that run, close the database."""
        self.is_ready.drain()
        self._server.stop(_GRACE_SECONDS).wait()
        self._database.engine.dispose()


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. 0 when stopped so, 1 when it cannot serve, 2 when called wrongly."""
    arguments = _parser().parse_args(argv)
    try:
        return _serve(arguments)
    except UsageError as error:
        print(f"kubeautoml study-server: {error}", file=sys.stderr)
        return 2
    except StudyError as error:
        print(f"kubeautoml study-server: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kubeautoml study-server",
        description="Serve the studies of one database to any number of workers over gRPC.",
    )
    database = parser.add_mutually_exclusive_group(required=True)
    database.add_argument("--database-url", metavar="URL", help="postgresql://user:password@host/db or sqlite:///path")
    database.add_argument(
        "--database-url-file", metavar="FILE", type=Path, help="file that holds the URL, such as a secret"
    )
    parser.add_argument("--listen", metavar="HOST:PORT", default="127.0.0.1:13000", help="default: %(default)s")
    parser.add_argument(
        "--metrics-port", metavar="PORT", type=int, help="serve /metrics, /healthz and /readyz over HTTP"
    )
    parser.add_argument(
        "--tls-cert",
        metavar="FILE",
        type=Path,
        help="PEM certificate chain, read again when it changes; needs --tls-key",
    )
    parser.add_argument("--tls-key", metavar="FILE", type=Path, help="PEM private key; needs --tls-cert")
    parser.add_argument(
        "--auth",
        choices=("token-review", "none"),
        help="who may call: pods of jobs and operators, by their service account tokens, or everybody; "
        "default: token-review in a cluster, none elsewhere",
    )
    parser.add_argument(
        "--operator-account",
        metavar="ACCOUNT",
        action="append",
        default=[],
        help="service account that may touch every study, as system:serviceaccount:NAMESPACE:NAME; may be repeated",
    )
    parser.add_argument(
        "--api-server", metavar="URL", help="who reviews tokens; default: the cluster that this pod runs in"
    )
    parser.add_argument(
        "--api-token-file", metavar="FILE", type=Path, help="this server's own token, with --api-server"
    )
    parser.add_argument(
        "--api-ca-file", metavar="FILE", type=Path, help="the API server's authority, with --api-server"
    )
    parser.add_argument(
        "--start-patience",
        metavar="SECONDS",
        type=float,
        default=60.0,
        help="how long a database that is away at the start is waited for; inf: for ever, also for one that refuses, and "
        "/readyz says why; default: %(default)g",
    )
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    parser.add_argument("--log-format", choices=("json", "text"), default="json")
    return parser


def _serve(arguments: argparse.Namespace) -> int:
    host, _, port = arguments.listen.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--listen must be HOST:PORT, such as 0.0.0.0:13000, got {arguments.listen!r}")
    log_to_stderr(arguments.log_level, arguments.log_format)
    certificate = _certificate(arguments.tls_cert, arguments.tls_key)
    api = _api(arguments)
    if api is not None and certificate is None:
        log.warning("tokens cross the network in clear text; give --tls-cert and --tls-key")
    stopped, door, metrics = _stop_on_signal(), _Door(), Metrics()
    http = _serve_http(host, arguments.metrics_port, metrics, door)
    url, database = _open_database(arguments, door, stopped)
    server = StudyServer(database, arguments.listen, certificate, api, arguments.operator_account, metrics)
    door.open(server.is_ready)
    server.start()
    print(f"study server listens on {host}:{server.port}, database {shown(url)}", flush=True)
    stopped.wait()
    log.info("study server stops")
    server.stop()
    if http is not None:
        http.shutdown()
    if server.is_busy:  # a call that hangs in the database would hold up the end of the process
        logging.shutdown()
        os._exit(0)
    return 0


class _Door:
    """Whether anybody should come here: not before the database was opened. Threads of the HTTP server ask it."""

    def __init__(self) -> None:
        self._why_not = "the study database has not been opened yet"
        self._is_ready: Callable[[], bool] = lambda: False

    def is_open(self) -> bool:
        return self._is_ready()

    def why_not(self) -> str:
        return self._why_not

    def close(self, error: StudyError) -> bool:
        """Nobody should come, for this reason; whether it is news."""
        is_news, self._why_not = str(error) != self._why_not, str(error)
        return is_news

    def open(self, is_ready: Callable[[], bool]) -> None:
        """From now on it is as ready as its database."""
        self._is_ready, self._why_not = is_ready, "the study database does not answer"


def _open_database(arguments: argparse.Namespace, door: _Door, stopped: threading.Event) -> tuple[str, Database]:
    """The URL and what it opens. The file with the URL is read for every try: it may be what is wrong, and be mended.

    Raises:
        StudyError: the database was away for longer than the patience, or refuses and the patience has an end.
    """
    deadline = time.monotonic() + arguments.start_patience
    waits_for_all = math.isinf(arguments.start_patience)
    while True:
        try:
            url = arguments.database_url or _read(arguments.database_url_file, "--database-url-file").decode().strip()
            return url, _open(url)
        except StudyError as error:
            if stopped.is_set() or time.monotonic() > deadline or not (waits_for_all or is_away(error)):
                raise
            if door.close(error):
                log.warning("no answer at the start; trying again", extra={"error": str(error)})
        stopped.wait(random.uniform(0.5, 1.5))


def _open(url: str) -> Database:
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and rest.startswith("/"):
        return open_backend("sqlite:////" + rest.lstrip("/"))
    if scheme in ("postgresql", "postgres", "postgresql+psycopg") and rest:
        return open_backend(url, _CONNECTIONS)
    raise UsageError(f"--database-url must be postgresql://... or sqlite:///path, got {shown(url)!r}")


def _certificate(chain: Path | None, key: Path | None) -> Certificate | None:
    if chain is None and key is None:
        return None
    if chain is None or key is None:
        raise UsageError("--tls-cert and --tls-key must be given together")
    return Certificate(chain, key)


def _api(arguments: argparse.Namespace) -> Api | None:
    """The API server to ask; None when everybody may call."""
    is_in_cluster = bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
    auth = arguments.auth or ("token-review" if is_in_cluster or arguments.api_server else "none")
    given = (arguments.api_server, arguments.api_token_file, arguments.api_ca_file)
    if auth == "none":
        if any(given) or arguments.operator_account:
            raise UsageError("--auth none takes no --api-server, --api-token-file, --api-ca-file or --operator-account")
        if is_in_cluster:
            log.warning("--auth none: whoever reaches this server may read, change and delete every study")
        return None
    if any(given) and not all(given):
        raise UsageError("--api-server, --api-token-file and --api-ca-file must be given together")
    if not any(given) and not is_in_cluster:
        raise UsageError(
            "--auth token-review outside of a cluster needs --api-server, --api-token-file and --api-ca-file"
        )
    for account in arguments.operator_account:
        if not _ACCOUNT.fullmatch(account):
            raise UsageError(f"--operator-account must be system:serviceaccount:NAMESPACE:NAME, got {account!r}")
    return KubeApi(*given) if all(given) else KubeApi.in_cluster()


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StudyError(f"{option} {path} cannot be read: {error.strerror}; check the path and its mount") from error


def _serve_http(host: str, port: int | None, metrics: Metrics, door: _Door) -> ThreadingHTTPServer | None:
    if port is None:
        return None
    try:
        return serve_http(host, port, metrics, door.is_open, door.why_not)
    except OSError as error:
        raise StudyError(f"--metrics-port {port} cannot be used: {error.strerror}; choose a free one") from error


def _stop_on_signal() -> threading.Event:
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return stopped


if __name__ == "__main__":
    sys.exit(main())
