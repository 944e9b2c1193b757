"""`kubeautoml study-server`: Optuna's storage protocol over gRPC in front of one database, for any number of workers.

It keeps nothing but caches, so it may be killed and started again at any time; several may serve one PostgreSQL.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import FrameType

import grpc
import sqlalchemy

from kubeautoml.api.errors import StudyError, UsageError
from kubeautoml.study.backend import Database
from kubeautoml.study.base import shown
from kubeautoml.study.database import open_backend
from kubeautoml.study.monitor import Metrics, Monitor, health_handler, serve_http
from kubeautoml.study.service import add_calls

_THREADS = 32
_CONNECTIONS = 16
_GRACE_SECONDS = 10.0
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # else a second server on this port starts in silence and takes half of the calls
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
]


class StudyServer:
    """A running server. `port` is the one it got, when 0 was asked for."""

    def __init__(self, database: Database, listen: str, tls: tuple[bytes, bytes] | None = None) -> None:
        self._database = database
        self.metrics = Metrics()
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers=_THREADS), interceptors=(Monitor(self.metrics),), options=_OPTIONS
        )
        add_calls(self._server, database)
        self._server.add_generic_rpc_handlers((health_handler(self.is_ready),))
        self.port = self._bind(listen, tls)

    def _bind(self, listen: str, tls: tuple[bytes, bytes] | None) -> int:
        try:
            if tls is None:
                return int(self._server.add_insecure_port(listen))
            return int(self._server.add_secure_port(listen, grpc.ssl_server_credentials([tls])))
        except RuntimeError as error:
            raise StudyError(
                f"study server cannot listen on {listen}; choose a free port and an own address"
            ) from error

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        """Take no new calls, answer those that run, close the database."""
        self._server.stop(_GRACE_SECONDS).wait()
        self._database.engine.dispose()

    def is_ready(self) -> bool:
        """Whether the database answers."""
        try:
            with self._database.engine.connect() as connection:
                connection.execute(sqlalchemy.text("SELECT 1"))
        except sqlalchemy.exc.SQLAlchemyError:
            return False
        return True


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
    parser.add_argument("--tls-cert", metavar="FILE", type=Path, help="PEM certificate chain; needs --tls-key")
    parser.add_argument("--tls-key", metavar="FILE", type=Path, help="PEM private key; needs --tls-cert")
    return parser


def _serve(arguments: argparse.Namespace) -> int:
    host, _, port = arguments.listen.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--listen must be HOST:PORT, such as 0.0.0.0:13000, got {arguments.listen!r}")
    tls = _tls(arguments.tls_cert, arguments.tls_key)
    url = arguments.database_url or _read(arguments.database_url_file, "--database-url-file").decode().strip()
    stopped = _stop_on_signal()
    server = StudyServer(_open_database(url), arguments.listen, tls)
    http = _serve_http(host, arguments.metrics_port, server)
    server.start()
    print(f"study server listens on {host}:{server.port}, database {shown(url)}", flush=True)
    stopped.wait()
    server.stop()
    if http is not None:
        http.shutdown()
    return 0


def _open_database(url: str) -> Database:
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and rest.startswith("/"):
        return open_backend("sqlite:////" + rest.lstrip("/"))
    if scheme in ("postgresql", "postgres", "postgresql+psycopg") and rest:
        return open_backend(url, _CONNECTIONS)
    raise UsageError(f"--database-url must be postgresql://... or sqlite:///path, got {shown(url)!r}")


def _tls(certificate: Path | None, key: Path | None) -> tuple[bytes, bytes] | None:
    """(key, certificate), in the order that gRPC wants."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UsageError("--tls-cert and --tls-key must be given together")
    return _read(key, "--tls-key"), _read(certificate, "--tls-cert")


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StudyError(f"{option} {path} cannot be read: {error.strerror}; check the path and its mount") from error


def _serve_http(host: str, port: int | None, server: StudyServer) -> ThreadingHTTPServer | None:
    if port is None:
        return None
    try:
        return serve_http(host, port, server.metrics, server.is_ready)
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
