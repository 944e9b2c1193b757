"""Jobs in every state on a real API server, and the command bound to one namespace of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from factories import as_written
from kubeautoml.cli.main import main
from real.controlplane import ControlPlane

JOBS = "/apis/kubeautoml.dev/v1alpha1/namespaces/{}/automljobs"
WHEN = "2026-01-05T12:00:00Z"


def conditions(**states: str) -> list[dict[str, Any]]:
    """Conditions by type, each "Status Reason"."""
    given = {kind: state.split() for kind, state in states.items()}
    return [
        {"type": k, "status": s, "reason": r, "message": f"about {k}", "lastTransitionTime": WHEN}
        for k, (s, r) in given.items()
    ]


def searching() -> dict[str, Any]:
    """The status of a job in the middle of its search."""
    best = {"trial": 4, "value": "0.8123", "family": "LightGBM", "parameters": {"LightGBM.num_leaves": "31"}}
    return {
        "observedGeneration": 1,
        "conditions": conditions(Accepted="True SpecValid", Succeeded="Unknown Searching"),
        "startTime": WHEN,
        "progressPercentage": 40,
        "trials": {"total": 6, "running": 1, "completed": 5},
        "best": best,
        "leaderboard": [best, {"trial": 1, "value": "0.79", "family": "Linear", "durationSeconds": 2}],
    }


def finished(folder: Path) -> dict[str, Any]:
    """The status of a job whose model is stored in a folder and served."""
    uri = f"file://{folder}"
    return searching() | {
        "conditions": conditions(Accepted="True SpecValid", Succeeded="True ModelTrained", Ready="True Serving"),
        "completionTime": WHEN,
        "progressPercentage": 100,
        "artifacts": {"rootUri": uri, "modelUri": f"{uri}/model", "reportUri": f"{uri}/report.html"},
        "model": {"name": "churn-abc12-v1", "version": "v1", "uri": f"{uri}/model", "sha256": "0" * 64},
        "serving": {"url": "http://churn-server.team.svc.cluster.local", "readyReplicas": 1, "modelVersion": "v1"},
    }


class Cluster:
    """One namespace of the API server, with the command bound to it."""

    def __init__(self, plane: ControlPlane, namespace: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.admin, self.namespace, self._capsys = plane.admin, namespace, capsys
        self.flags = ["--kubeconfig", str(plane.kubeconfig), "-n", namespace]

    def create(self, name: str, status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
        created = self.admin.post(JOBS.format(self.namespace), as_written(name, **spec))
        if status is not None:
            self.admin.patch(f"{JOBS.format(self.namespace)}/{name}/status", {"status": status})
        return created

    def job(self, name: str) -> dict[str, Any]:
        return self.admin.get(f"{JOBS.format(self.namespace)}/{name}")

    def call(self, verb: str, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a verb."""
        code = main([verb, *words, *self.flags])
        printed = self._capsys.readouterr()
        return code, printed.out, printed.err

    def out(self, verb: str, *words: str) -> str:
        """What a verb that succeeds prints; it must say nothing on stderr."""
        code, out, err = self.call(verb, *words)
        assert (code, err) == (0, "")
        return out


def cells(table: str) -> list[list[str]]:
    """The words of every line."""
    return [line.split() for line in table.splitlines()]
