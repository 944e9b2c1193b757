"""What the code exports, asked of its own registries, and what an expression uses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "helm" / "kubeautoml" / "rules" / "kubeautoml.rules.yaml"
DASHBOARD = ROOT / "helm" / "kubeautoml" / "dashboards" / "kubeautoml.json"
RUNBOOKS = ROOT / "docs" / "runbooks"

_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
_VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$namespace": ".*", "$operator": ".*", "$automljob": ".*"}


def load_dashboard() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text())


def dashboard_queries() -> list[tuple[str, str]]:
    """(title, expression) of every target, with Grafana's variables replaced as it would for all namespaces."""
    panels = load_dashboard()["panels"]
    return [(p["title"], _filled(t["expr"])) for p in panels for t in p.get("targets", ())]


def load_alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def exported_by(registry: CollectorRegistry) -> set[str]:
    """Names of series in that registry, also of metrics that have no sample yet."""
    return {f"{m.name}{suffix}" for m in registry.collect() for suffix in _SUFFIXES.get(m.type, ())}


def used_in(expression: str) -> Iterator[str]:
    """Names of our metrics, and of the process's."""
    return iter(re.findall(r"\b(?:kubeautoml|process)_\w+", re.sub(r'"[^"]*"', '""', expression)))


def _filled(expression: str) -> str:
    for name, value in _VARIABLES.items():
        expression = expression.replace(name, value)
    return expression
