"""Where an example runs in earnest: a namespace of a real API server, buckets, an operator; and what is asked of it there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubeautoml_trainer.bundle import Model, load_bundle
from real.controlplane import ControlPlane
from real.kubelet import Kubelet
from real.s3 import S3Server
from real.study_server import running_study_server

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


class OperatorProcess:
    """`kubeautoml operator` as a process that can be killed and started again."""

    def __init__(self, plane: ControlPlane, namespace: str, study_url: str, log: Path) -> None:
        version = ".".join(map(str, plane.version))
        script = str(Path(__file__).parent / "operator_for_any_server.py")
        kubeconfig = str(plane.operator_kubeconfig())
        self._command = [
            sys.executable,
            script,
            version,
            "-n",
            namespace,
            "--kubeconfig",
            kubeconfig,
            "--study-url",
            study_url,
        ]
        # The lease is in the test's namespace, so that what other tests' operators left behind is not waited for.
        own = {"KUBEAUTOML_NAMESPACE": namespace, "KUBEAUTOML_METRICS_PORT": "0", "KUBEAUTOML_HEALTH_PORT": "0"}
        self._environment = {**os.environ, **own}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._environment)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None


@contextmanager
def running_operator(plane: ControlPlane, namespace: str, study_url: str, log: Path) -> Iterator[OperatorProcess]:
    operator = OperatorProcess(plane, namespace, study_url, log)
    operator.start()
    try:
        yield operator
    finally:
        operator.kill()


@dataclass(frozen=True)
class Place:
    """One namespace, with the buckets and the secret that the examples name."""

    plane: ControlPlane
    kubelet: Kubelet
    namespace: str
    s3: S3Server
    folder: Path

    def __post_init__(self) -> None:
        for bucket in ("lake", "models"):
            self.s3.create_bucket(bucket)
        secret = {"metadata": {"name": "object-storage"}, "stringData": self.s3.settings}
        self.plane.admin.post(f"/api/v1/namespaces/{self.namespace}/secrets", secret)

    @contextmanager
    def running(self, database_url: str) -> Iterator[OperatorProcess]:
        """With a study server on that database, and an operator."""
        with (
            running_study_server(database_url) as study_server,
            running_operator(self.plane, self.namespace, study_server.url, self.log) as operator,
        ):
            yield operator

    @property
    def log(self) -> Path:
        """The operator's."""
        return self.folder / "operator.log"

    def apply(self, manifest: Path) -> None:
        config = str(self.plane.kubeconfig)
        command = ["kubectl", "--kubeconfig", config, "apply", "-n", self.namespace, "-f", str(manifest)]
        applied = subprocess.run(command, capture_output=True, text=True, check=False)
        assert applied.returncode == 0, applied.stderr

    def job(self, name: str) -> dict[str, Any]:
        return self._own("automljobs", name)

    def served(self, name: str) -> dict[str, Any]:
        """The job, once its model is served; it must not fail."""

        def is_over() -> bool:
            job = self.job(name)
            return _condition(job, "Ready") == "True" or _condition(job, "Succeeded") == "False"

        self.wait_until(is_over, 300, "the end of the job")
        finished = self.job(name)
        assert _condition(finished, "Ready") == "True", self.explain()
        return finished

    def wait_until(self, holds: Callable[[], Any], seconds: float, what: str, pause_seconds: float = 0.5) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} did not happen within {seconds:.0f} s\n{self.explain()}")
            time.sleep(pause_seconds)

    def explain(self) -> str:
        """Statuses and logs, for the message of a failing test."""
        jobs = self.plane.admin.items(f"/apis/kubeautoml.dev/v1alpha1/namespaces/{self.namespace}/automljobs")
        statuses = [json.dumps(job.get("status"), indent=1) for job in jobs]
        return "\n".join([*statuses, self.log.read_text()[-6000:], self.kubelet.all_logs(self.namespace)[-6000:]])

    def pods(self, component: str) -> list[dict[str, Any]]:
        selector = f"labelSelector=kubeautoml.dev/component={component}"
        return self.plane.admin.items(f"/api/v1/namespaces/{self.namespace}/pods?{selector}")

    def stored_model(self, job: dict[str, Any]) -> Model:
        """The model that a finished job's AutoMLModel names."""
        stored = self._own("automlmodels", job["status"]["model"]["name"])["spec"]
        keys = self.s3.write_credentials(self.folder / "keys")
        return load_bundle(stored["uri"], credentials_dir=keys, sha256=stored["sha256"])

    def predict(self, instances: str) -> list[dict[str, Any]]:
        """What a pod of the endpoint says of rows, a JSON list of records."""
        return self.ask("/v1/predict", f'{{"instances": {instances}}}')["predictions"]

    def ask(self, path: str, body: str) -> dict[str, Any]:
        """What a pod of the endpoint answers to JSON."""
        server = next(p for p in self.pods("server") if p["status"]["phase"] == "Running")
        host, port = self.kubelet.pod_address(self.namespace, server["metadata"]["name"])
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{host}:{port}{path}", body.encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.loads(response.read())

    def _own(self, plural: str, name: str) -> dict[str, Any]:
        return self.plane.admin.get(f"/apis/kubeautoml.dev/v1alpha1/namespaces/{self.namespace}/{plural}/{name}")


def _condition(job: dict[str, Any], kind: str) -> str | None:
    found = [c["status"] for c in job.get("status", {}).get("conditions", []) if c["type"] == kind]
    return found[0] if found else None
