"""Prometheus metrics of one model server, and the middleware that takes them."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class ServerMetrics:
    """Counters of one server; its registry is what /metrics prints."""

    def __init__(self, model: str, version: str, sha256: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "kubeautoml_server_requests_total",
            "Requests by endpoint and status.",
            ["endpoint", "code"],
            registry=self.registry,
        )
        self.rows = Counter("kubeautoml_server_predicted_rows_total", "Rows predicted.", registry=self.registry)
        self.seconds = Histogram(
            "kubeautoml_server_request_seconds",
            "Time from the request to its answer.",
            ["endpoint"],
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.ignored = Counter(
            "kubeautoml_server_ignored_columns_total",
            "Columns in requests that the model does not know.",
            registry=self.registry,
        )
        info = Gauge(
            "kubeautoml_server_model_info",
            "The model that is served; always 1.",
            ["model", "version", "sha256"],
            registry=self.registry,
        )
        info.labels(model, version, sha256).set(1)


class Measured:
    """ASGI middleware: counts every request and its seconds, also those that end in an error."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        code, started = 500, time.perf_counter()

        async def note(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, note)
        finally:
            # the route's pattern, not the path: a caller must not be able to make up label values
            endpoint = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(endpoint, str(code)).inc()
            self.metrics.seconds.labels(endpoint).observe(time.perf_counter() - started)
