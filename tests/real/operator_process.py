"""The operator as a process with its production wiring: its log read as JSON, its probes and metrics asked over HTTP."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from real.controlplane import ControlPlane
from real.process import dies_with_us

_SCRIPT = Path(__file__).resolve().parents[1] / "acceptance" / "operator_for_any_server.py"
PATIENCE_SECONDS = 90.0


class OperatorProcess:
    """One operator. Killed at the end, if the test has not ended it."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(dies_with_us(command), stdout=out, stderr=out, env=environment)

    @property
    def pid(self) -> int:
        return self.process.pid

    def lines(self) -> list[dict[str, Any]]:
        """What it logged so far; a line that is no JSON object is one with that text as its message."""
        return [_parsed(line) for line in self.log.read_text(errors="replace").splitlines()]

    def said(self, message: str) -> dict[str, Any] | None:
        """The first line with this message."""
        return next((line for line in self.lines() if line["message"] == message), None)

    def wait_said(self, message: str) -> dict[str, Any]:
        """Wait for a line with this message."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (line := self.said(message)) is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the operator never said {message!r}: {self.log.read_text(errors='replace')}")
            time.sleep(0.02)
        return line

    @property
    def port(self) -> int:
        """Of its probes and metrics."""
        return int(self.wait_said("operator started")["ports"].split(",")[0])

    def ask(self, path: str) -> tuple[int, str]:
        """Status and body of a GET."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metrics(self) -> list[tuple[str, dict[str, str], float]]:
        """Every sample as (name, labels, value)."""
        found = []
        for line in self.ask("/metrics")[1].splitlines():
            if match := re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line):
                labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
                found.append((match[1], labels, float(match[3])))
        return found

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name that carry these labels."""
        return sum(v for n, given, v in self.metrics() if n == name and labels.items() <= given.items())

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)


@contextmanager
def running_operator(
    plane: ControlPlane,
    log: Path,
    *arguments: str,
    lease_namespace: str,
    study_url: str | None = None,
    kubeconfig: Path | None = None,
    **environment: str,
) -> Iterator[OperatorProcess]:
    """Start one with the rights of its service account; on an old server less what that does not know."""
    version = ".".join(map(str, plane.version))
    command = [sys.executable, str(_SCRIPT), version, *arguments]
    own = {
        "KUBECONFIG": str(kubeconfig or plane.operator_kubeconfig()),
        "KUBEAUTOML_STUDY_URL": study_url or f"journal://{log.parent}/study.log",
        "KUBEAUTOML_NAMESPACE": lease_namespace,
        "KUBEAUTOML_METRICS_PORT": "0",
        "KUBEAUTOML_HEALTH_PORT": "0",
        "OMP_NUM_THREADS": "1",
    }
    foreign = {k: v for k, v in os.environ.items() if not k.startswith("KUBEAUTOML_")}
    operator = OperatorProcess(command, {**foreign, **own, **environment}, log)
    try:
        yield operator
    finally:
        operator.end()


def _parsed(line: str) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except ValueError:
        parsed = None
    return parsed if isinstance(parsed, dict) and "message" in parsed else {"message": line}
