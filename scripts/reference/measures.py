"""Every metric that operator, study server and model server show to Prometheus, from their registries."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from scripts.reference.markdown import MADE_OF, cell, table

from kubeautoml.controller.main import Operator
from kubeautoml.controller.settings import OperatorSettings
from kubeautoml.plan.base import Settings
from kubeautoml.study.monitor import Metrics as StudyMetrics
from kubeautoml_trainer.serve.metrics import ServerMetrics

PREFIX = "kubeautoml_"


@dataclass(frozen=True)
class Measure:
    """One metric, as a query names it."""

    name: str
    type: str
    labels: tuple[str, ...]
    words: str


def measures(registry: CollectorRegistry) -> tuple[Measure, ...]:
    """What a registry shows of our own, by name."""
    return tuple(sorted((m for m in _all(registry) if m.name.startswith(PREFIX)), key=lambda m: m.name))


def _all(registry: CollectorRegistry) -> Iterator[Measure]:
    for collector in list(registry._collector_to_names):
        for family in collector.collect():
            wrapped = isinstance(collector, MetricWrapperBase)
            labels: Any = collector._labelnames if wrapped else getattr(family, "_labelnames", ())
            suffix = "_total" if family.type == "counter" else ""
            yield Measure(family.name + suffix, family.type, tuple(labels), family.documentation)


def operator_registry() -> CollectorRegistry:
    """That of an operator which has been put together and not started."""

    async def made() -> CollectorRegistry:
        # what its metrics ask of a cluster is asked when somebody looks
        cluster = SimpleNamespace(default_namespace="default", requests=SimpleNamespace(waited_seconds=0.0))
        settings = OperatorSettings(plan=Settings(study_url="grpc://study:13000"))
        return Operator(cast(Any, cluster), settings)._metrics.registry

    return asyncio.run(made())


REGISTRIES = {
    "Operator": operator_registry,
    "Study server": lambda: StudyMetrics().registry,
    "Model server": lambda: ServerMetrics("titanic", "v1", "0" * 64).registry,
}
"""Maker of a registry by who shows it."""

ABOUT = {
    "Operator": "Port 8081, path `/metrics`; of both replicas. Those about jobs are shown by the one that works and add up the jobs"
    " there are: a job that is deleted is taken away from them.",
    "Study server": "Port 9090 (`--metrics-port`), path `/metrics`.",
    "Model server": "The port of the endpoint itself, path `/metrics`. `endpoint` is the pattern of the path, such as `/v1/predict`.",
}


def measures_page() -> str:
    """docs/reference/prometheus.md."""
    parts = [
        f"# Prometheus metrics\n\n{MADE_OF.format(source='the registries of the three servers')} A histogram has `_bucket`, `_sum`"
        " and `_count`. Beside these there are `process_*` (memory, CPU time, files). No metric carries the name of a job.\n\n"
        "How Prometheus finds them, and alerts on them: [runbooks](../runbooks/README.md).\n"
    ]
    for name, make in REGISTRIES.items():
        rows = [
            (f"`{m.name}`", m.type, ", ".join(f"`{label}`" for label in m.labels), cell(m.words))
            for m in measures(make())
        ]
        parts.append(f"\n## {name}\n\n{ABOUT[name]}\n\n{table(('metric', 'type', 'labels', 'what it is'), rows)}")
    return "".join(parts)
