"""What the study server tells about itself: metrics of every call, health over gRPC, and both over plain HTTP."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import sqlalchemy
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from kubeautoml.study.backend import is_passing

log = logging.getLogger(__name__)

HEALTH_SERVICE = "grpc.health.v1.Health"
READINESS = "database"
"""Name to ask the health service for, to learn whether the database answers; "" asks only for the process."""

_READY_SECONDS = 1.0
# grpc.health.v1.HealthCheckResponse: field 1, SERVING or NOT_SERVING. Two constants do not earn a dependency.
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_TRIAL_BUCKETS = (1.0, 3.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 14400.0)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.calls = Counter(
            "kubeautoml_study_requests_total",
            "Calls to the study server by method and gRPC status code.",
            ("method", "code"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "kubeautoml_study_request_duration_seconds",
            "Time to answer a call to the study server.",
            ("method",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.open = Gauge("kubeautoml_study_open_requests", "Calls that are being answered.", registry=self.registry)
        self.denied = Counter(
            "kubeautoml_study_denied_requests_total",
            "Calls that were refused, by method and reason: unauthenticated or forbidden.",
            ("method", "reason"),
            registry=self.registry,
        )
        self.tokens = Counter(
            "kubeautoml_study_token_lookups_total",
            "Tokens looked up, by result: hit, miss, stale (API server away, known caller), refused or unavailable.",
            ("result",),
            registry=self.registry,
        )
        self.database_errors = Counter(
            "kubeautoml_study_database_errors_total",
            "Calls that failed because the database did not answer.",
            registry=self.registry,
        )

        self.trials = Histogram(
            "kubeautoml_study_trial_duration_seconds",
            "Time that trials ran, by how they ended: Complete, Pruned or Fail.",
            ("state",),
            buckets=_TRIAL_BUCKETS,
            registry=self.registry,
        )

    def trial_ended(self, state: str, seconds: float) -> None:
        """A trial has ended, in one of Optuna's states."""
        self.trials.labels(state.capitalize()).observe(max(0.0, seconds))

    def open_calls(self) -> int:
        """How many calls are being answered."""
        return int(self.registry.get_sample_value("kubeautoml_study_open_requests") or 0)


class Monitor(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc is read without types
    """Measures every call, and answers "try again" while the database is away, which Optuna would call unknown."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        handler = continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        name = details.method.rpartition("/")[2]

        def behave(request: Any, context: Any) -> Any:
            started = time.perf_counter()
            try:
                with self._metrics.open.track_inprogress():
                    return self._answer(handler.unary_unary, request, context, name)
            finally:
                self._metrics.seconds.labels(name).observe(time.perf_counter() - started)
                code = context.code() or grpc.StatusCode.OK
                self._metrics.calls.labels(name, code.name).inc()

        return grpc.unary_unary_rpc_method_handler(behave, handler.request_deserializer, handler.response_serializer)

    def _answer(self, behaviour: Callable[..., Any], request: Any, context: Any, name: str) -> Any:
        try:
            return behaviour(request, context)
        except Exception as error:
            if context.code() is not None:  # the servicer has answered, by context.abort
                raise
            if is_passing(error):
                self._metrics.database_errors.inc()
                log.warning("study database did not answer", extra={"method": name, "error": _first_line(error)})
                context.abort(grpc.StatusCode.UNAVAILABLE, "the study database did not answer")
            log.exception("call failed", extra={"method": name})
            context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__} in {name}")


def _first_line(error: BaseException) -> str:
    return str(error.__cause__ or error).strip().splitlines()[0]


class Readiness:
    """Whether the database answers, asked over a connection of its own; known within a second, whatever hangs."""

    def __init__(self, url: Any, connect_args: dict[str, Any]) -> None:
        self._engine = sqlalchemy.create_engine(
            url, connect_args=connect_args, pool_size=1, max_overflow=0, pool_pre_ping=True
        )
        self._lock = threading.Lock()
        self._asked: tuple[threading.Thread, list[bool]] | None = None
        self._is_draining = False

    def __call__(self) -> bool:
        with self._lock:
            if self._is_draining:
                return False
            if self._asked is None or not self._asked[0].is_alive():
                answer: list[bool] = []
                # daemon: a database that hangs must not hold up the end of the process
                self._asked = threading.Thread(target=self._ask, args=(answer,), daemon=True), answer
                self._asked[0].start()
            thread, answer = self._asked
        thread.join(_READY_SECONDS)
        return answer == [True]

    def drain(self) -> None:
        """From now on: no."""
        with self._lock:
            self._is_draining = True

    def _ask(self, answer: list[bool]) -> None:
        try:
            with self._engine.connect() as connection:
                connection.execute(sqlalchemy.text("SELECT 1"))
        except sqlalchemy.exc.SQLAlchemyError:
            answer.append(False)
        else:
            answer.append(True)


def health_handler(is_ready: Callable[[], bool]) -> Any:
    """The standard health service, for Kubernetes' gRPC probes."""

    def check(request: bytes, _context: Any) -> bytes:
        ready = is_ready() if READINESS.encode() in request else True
        return _SERVING if ready else _NOT_SERVING

    return grpc.method_handlers_generic_handler(HEALTH_SERVICE, {"Check": grpc.unary_unary_rpc_method_handler(check)})


def serve_http(
    host: str,
    port: int,
    metrics: Metrics,
    is_ready: Callable[[], bool],
    why_not: Callable[[], str] = lambda: "the study database does not answer",
) -> ThreadingHTTPServer:
    """/metrics, /healthz (the process lives) and /readyz (the database answers; else why not), in a thread of their own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._send(200, generate_latest(metrics.registry), "text/plain; version=0.0.4; charset=utf-8")
            elif self.path == "/healthz":
                self._send(200, b"ok\n")
            elif self.path == "/readyz":
                ready = is_ready()
                self._send(200 if ready else 503, b"ok\n" if ready else f"{why_not()}\n".encode())
            else:
                self._send(404, b"try /metrics, /healthz or /readyz\n")

        def _send(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class names it so
            """Probes and scrapes are not worth a line."""

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
