"""Prometheus metrics of one model server."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class ServerMetrics:
    """Counters of one server; its registry is what /metrics prints."""

    def __init__(self, model: str, version: str, sha256: str) -> None:
        self.registry = CollectorRegistry()
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
        self.unseen = Counter(
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
