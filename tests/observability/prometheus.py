"""A real Prometheus with the scrape configuration of the runbooks, on targets of the test instead of pods."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from observability.exported import RULES, RUNBOOKS
from real.process import end, free_ports, start

PATIENCE_SECONDS = 150.0
POD = "__meta_kubernetes_pod"


@dataclass(frozen=True)
class Pod:
    """What service discovery would tell of one port of a pod."""

    port: int
    namespace: str
    port_name: str
    labels: Mapping[str, str]

    def to_static_config(self) -> dict[str, Any]:
        meta = {"__meta_kubernetes_namespace": self.namespace, f"{POD}_phase": "Running", f"{POD}_name": "pod"}
        labels = {f"{POD}_label_{name.replace('.', '_').replace('/', '_')}": v for name, v in self.labels.items()}
        address = f"127.0.0.1:{self.port}"
        return {"targets": [address], "labels": {**meta, **labels, f"{POD}_container_port_name": self.port_name}}


@dataclass(frozen=True)
class Prometheus:
    """One that runs."""

    url: str

    def ask(self, path: str, **query: str) -> Any:
        """The data of its answer; fails with what it says when it refuses."""
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from error

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """(labels, value) of every series now."""
        return [(found["metric"], float(found["value"][1])) for found in self.ask("query", query=expression)["result"]]

    def wait_for(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Until the expression has a series."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := self.query(expression)):
            assert time.monotonic() < deadline, f"{expression} has no series; targets: {self.ask('targets')}"
            time.sleep(0.1)
        return found


@contextmanager
def running_prometheus(folder: Path, pods: list[Pod]) -> Iterator[Prometheus]:
    """Every scrape job sees all pods, as in a cluster, and keeps its own."""
    config = yaml.safe_load((RUNBOOKS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES)]
    for job in config["scrape_configs"]:
        del job["kubernetes_sd_configs"]
        job["static_configs"] = [pod.to_static_config() for pod in pods]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    log = folder / "prometheus.log"
    listen = [f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    process = start(["prometheus", f"--config.file={file}", *listen], log)
    try:
        prometheus = Prometheus(f"http://127.0.0.1:{port}")
        _wait_ready(prometheus, log)
        yield prometheus
    finally:
        end(process)


def _wait_ready(prometheus: Prometheus, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{prometheus.url}/-/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"Prometheus must be ready within {PATIENCE_SECONDS:g} s, got: {log.read_text()}")
