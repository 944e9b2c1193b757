"""The test kubelet does what a kubelet does: with the real Job, Deployment and endpoint controllers."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import urllib3

from real.controlplane import ControlPlane
from real.kubelet import NODE, Kubelet
from real.kubelet_volumes import Paths, expand
from real.rest import Json

DEADLINE_SECONDS = 45.0
WAIT_FOR_SIGTERM = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("bye"), sys.exit(7)))
print("hello")
time.sleep(120)
"""

controlplane = pytest.mark.controlplane


class Pods:
    """Makes and asks for objects of one namespace."""

    def __init__(self, plane: ControlPlane, kubelet: Kubelet, namespace: str) -> None:
        self.admin, self.kubelet, self.namespace = plane.admin, kubelet, namespace
        self.core = f"/api/v1/namespaces/{namespace}"

    def create(self, name: str, program: str, *, restart: str = "Never", spec: Json | None = None, **more: Any) -> None:
        container = make_container(program, **more)
        pod = {"restartPolicy": restart, "containers": [container], **(spec or {})}
        self.admin.post(f"{self.core}/pods", {"metadata": {"name": name}, "spec": pod})

    def get(self, name: str) -> Json:
        return self.admin.get(f"{self.core}/pods/{name}")

    def phase(self, name: str) -> str:
        return str(self.get(name).get("status", {}).get("phase"))

    def state(self, name: str) -> Json:
        statuses = self.get(name).get("status", {}).get("containerStatuses") or [{}]
        return dict(statuses[0].get("state") or {})

    def logs(self, name: str) -> str:
        return self.kubelet.logs(self.namespace, name)


@pytest.fixture
def pods(control_plane: ControlPlane, kubelet: Kubelet, namespace: str) -> Pods:
    return Pods(control_plane, kubelet, namespace)


def make_container(program: str, **more: Any) -> Json:
    return {"name": "main", "image": "test:none", "command": ["python", "-c", program], **more}


def wait(holds: Callable[[], Any], what: str) -> Any:
    """What it returns once that is true."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS:g} s: {what}"
        time.sleep(0.05)
    return found


@controlplane
def test_a_job_of_two_pods_runs_to_completion(pods: Pods, namespace: str) -> None:
    """The real Job controller counts two processes that ended well."""
    program = "import os; print(os.environ['POD'], os.environ['KUBEAUTOML_BIND_HOST'])"
    field = {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    template = {"spec": {"restartPolicy": "Never", "containers": [make_container(program, env=[field])]}}
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    spec = {"parallelism": 2, "completions": 2, "template": template}
    pods.admin.post(jobs, {"metadata": {"name": "two"}, "spec": spec})

    job = wait(
        lambda: (j := pods.admin.get(f"{jobs}/two"))["status"].get("completionTime") and j, "the Job is complete"
    )

    assert job["status"]["succeeded"] == 2
    names = [p["metadata"]["name"] for p in pods.admin.items(f"{pods.core}/pods")]
    said = [pods.logs(name).split() for name in names]
    assert [line[0] for line in said] == names
    assert len({line[1] for line in said}) == 2


@controlplane
def test_a_cordoned_node_takes_no_pod_until_it_is_uncordoned(pods: Pods) -> None:
    """The pod waits as it would without a node, and runs afterwards."""
    pods.kubelet.cordon()
    pods.create("waits", "")
    pods.create("placed", "", spec={"nodeName": NODE})
    wait(lambda: pods.phase("placed") == "Succeeded", "the node has seen both pods, in their order")

    waiting = pods.get("waits")
    pods.kubelet.uncordon()

    assert "nodeName" not in waiting["spec"]
    wait(lambda: pods.phase("waits") == "Succeeded", "the pod that waited runs")


@controlplane
def test_a_test_that_does_not_ask_for_the_node_has_none(node: Kubelet) -> None:
    """Whatever ran before: a job of such a test would fail or succeed by real workers, depending on the order of tests."""
    assert node.is_cordoned


@controlplane
def test_a_deployment_is_available_once_its_probe_passes(pods: Pods, namespace: str) -> None:
    """A pod's server is reached at its own address; the Service gets its endpoint; a rollout ends the old pod."""
    command = ["python", "-m", "http.server", "--bind", "$(KUBEAUTOML_BIND_HOST)", "8080"]
    container = {
        "name": "server",
        "image": "test:none",
        "command": command,
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
    }
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}}
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    pods.admin.post(path, {"metadata": {"name": "web"}, "spec": spec})
    service = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}
    pods.admin.post(f"{pods.core}/services", {"metadata": {"name": "web"}, "spec": service})

    wait(lambda: pods.admin.get(f"{path}/web")["status"].get("availableReplicas") == 1, "the Deployment is available")
    wait(lambda: pods.admin.get(f"{pods.core}/endpoints/web").get("subsets"), "the Service has an endpoint")

    (pod,) = pods.admin.items(f"{pods.core}/pods")
    host, port = pods.kubelet.pod_address(namespace, pod["metadata"]["name"])
    assert urllib3.request("GET", f"http://{host}:{port}/", retries=False, timeout=5).status == 200


@controlplane
def test_secrets_tokens_and_scratch_are_files_of_the_pod(pods: Pods) -> None:
    """Mount paths in values of the environment lead to what was mounted; secrets also come as variables."""
    secret = {"metadata": {"name": "lake"}, "stringData": {"KEY": "k-123", "REGION": "moon"}}
    pods.admin.post(f"{pods.core}/secrets", secret)
    program = """
import os, pathlib
folder = pathlib.Path(os.environ["CREDENTIALS"])
print((folder / "KEY").read_text(), os.environ["REGION"], os.environ["ALL_KEY"])
print(len((pathlib.Path(os.environ["TOKEN_FILE"])).read_text().split(".")))
pathlib.Path(os.environ["SCRATCH"], "x").write_text("written")
print(os.environ["DATA"].replace(os.environ["SCRATCH"], "SCRATCH"))
"""
    token = {"audience": "kubeautoml-study", "path": "token", "expirationSeconds": 3600}
    pods.create(
        "files",
        program,
        env=[
            {"name": "CREDENTIALS", "value": "/etc/lake"},
            {"name": "REGION", "valueFrom": {"secretKeyRef": {"name": "lake", "key": "REGION"}}},
            {"name": "TOKEN_FILE", "value": "/var/run/study/token"},
            {"name": "SCRATCH", "value": "/scratch"},
            {"name": "DATA", "value": "file:///scratch/data.csv and /scratchy"},
        ],
        envFrom=[{"prefix": "ALL_", "secretRef": {"name": "lake"}}],
        volumeMounts=[
            {"name": "lake", "mountPath": "/etc/lake", "readOnly": True},
            {"name": "token", "mountPath": "/var/run/study"},
            {"name": "scratch", "mountPath": "/scratch"},
        ],
        spec={
            "volumes": [
                {"name": "lake", "secret": {"secretName": "lake"}},
                {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
                {"name": "scratch", "emptyDir": {}},
            ]
        },
    )

    wait(lambda: pods.phase("files") in ("Succeeded", "Failed"), "the pod ends")

    assert pods.logs("files").splitlines() == ["k-123 moon k-123", "3", "file://SCRATCH/data.csv and /scratchy"]
    assert pods.phase("files") == "Succeeded"


@controlplane
def test_a_pod_waits_for_what_it_needs(pods: Pods) -> None:
    """A missing secret keeps a pod Pending, as a volume and as a variable; it starts when the secret comes."""
    mount = [{"name": "v", "mountPath": "/v"}]
    volume = {"volumes": [{"name": "v", "secret": {"secretName": "late"}}]}
    reference = {"name": "X", "valueFrom": {"secretKeyRef": {"name": "late", "key": "X"}}}
    pods.create("by-volume", "print(1)", volumeMounts=mount, spec=volume)
    pods.create("by-variable", "print(1)", env=[reference])

    wait(lambda: "waiting" in pods.state("by-volume") and "waiting" in pods.state("by-variable"), "both wait")
    wait(lambda: pods.state("by-variable")["waiting"]["reason"] == "CreateContainerConfigError", "it says why")
    assert pods.state("by-volume")["waiting"]["reason"] == "ContainerCreating"
    assert (pods.phase("by-volume"), pods.phase("by-variable")) == ("Pending", "Pending")
    events = [e for e in pods.admin.items(f"{pods.core}/events") if e["reason"] == "FailedMount"]
    assert 'secret "late" not found' in events[0]["message"]

    pods.admin.post(f"{pods.core}/secrets", {"metadata": {"name": "late"}, "stringData": {"X": "1"}})

    wait(lambda: pods.phase("by-volume") == pods.phase("by-variable") == "Succeeded", "both run")


@controlplane
def test_a_deleted_pod_gets_sigterm_and_goes(pods: Pods) -> None:
    """The process may say goodbye; its last state is reported before the object goes; its log stays."""
    pods.create("polite", WAIT_FOR_SIGTERM)
    wait(lambda: "hello" in pods.logs("polite"), "it runs")

    pods.admin.delete(f"{pods.core}/pods/polite")

    wait(lambda: pods.admin.find(f"{pods.core}/pods/polite") is None, "the pod is gone")
    assert pods.logs("polite").split() == ["hello", "bye"]


@controlplane
def test_a_process_that_ignores_sigterm_is_killed_after_the_grace_period(pods: Pods) -> None:
    """SIGKILL follows terminationGracePeriodSeconds."""
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(120)"
    pods.create("deaf", program, spec={"terminationGracePeriodSeconds": 1})
    wait(lambda: "deaf" in pods.logs("deaf"), "it runs")

    pods.admin.delete(f"{pods.core}/pods/deaf")

    wait(lambda: pods.admin.find(f"{pods.core}/pods/deaf") is None, "the pod is gone")


@controlplane
def test_a_killed_process_is_a_failed_pod_with_its_exit_code(pods: Pods, namespace: str) -> None:
    """SIGKILL is exit code 137; a reason such as OOMKilled can be given."""
    pods.create("victim", WAIT_FOR_SIGTERM)
    wait(lambda: "hello" in pods.logs("victim"), "it runs")

    pods.kubelet.kill_pod_process(namespace, "victim", reason="OOMKilled")

    ended = wait(lambda: pods.state("victim").get("terminated"), "it ended")
    assert (ended["exitCode"], ended["reason"], pods.phase("victim")) == (137, "OOMKilled", "Failed")


@controlplane
def test_too_much_memory_is_out_of_memory(pods: Pods) -> None:
    """A memory limit is kept."""
    program = "import time; x = b'1' * 200_000_000; time.sleep(60)"
    pods.create("hungry", program, resources={"limits": {"memory": "64Mi"}})

    ended = wait(lambda: pods.state("hungry").get("terminated"), "it ended")

    assert ended["reason"] == "OOMKilled"


@controlplane
def test_a_crashing_container_is_restarted(pods: Pods) -> None:
    """restartPolicy Always: a new process after a pause, counted; a wrong command is told apart."""
    pods.create("crashing", "import sys; print('up'); sys.exit(3)", restart="Always")
    pods.create("mistaken", "", command=["no-such-program"])

    wait(lambda: pods.logs("crashing").count("up") >= 2, "a second start")
    wait(lambda: pods.state("mistaken").get("terminated"), "the other ended")

    status = pods.get("crashing")["status"]["containerStatuses"][0]
    assert status["restartCount"] >= 1
    assert status["lastState"]["terminated"]["exitCode"] == 3
    assert pods.state("mistaken")["terminated"]["reason"] == "ContainerCannotRun"


@controlplane
def test_kubectl_reads_the_logs(pods: Pods, control_plane: ControlPlane, namespace: str) -> None:
    """The API server gets a pod's log from the node, as it does for kubectl and for our own client."""
    pods.create("talker", "print('one'); print('two')")
    wait(lambda: pods.phase("talker") == "Succeeded", "it ends")

    kubectl = [str(Path(sys.executable).with_name("kubectl")), f"--kubeconfig={control_plane.kubeconfig}"]
    said = subprocess.run([*kubectl, "logs", "-n", namespace, "talker", "--tail=1"], capture_output=True, text=True)

    assert (said.stdout, said.stderr) == ("two\n", "")


def test_mount_paths_are_rewritten_where_they_stand_as_paths() -> None:
    """Whole components only, the longest first, also in URIs and lists; /tmp only by itself."""
    paths = Paths({"/data": Path("/m/d"), "/data/deep": Path("/m/deep"), "/tmp": Path("/m/t")})

    assert paths.rewrite("/data/x.csv") == "/m/d/x.csv"
    assert paths.rewrite('{"a": "file:///data/deep/x"}') == '{"a": "file:///m/deep/x"}'
    assert paths.rewrite("/database /other/data s3://data/x") == "/database /other/data s3://data/x"
    assert paths.rewrite("--in=/data,/data/deep") == "--in=/m/d,/m/deep"
    assert paths.rewrite("/tmp file:///tmp/pytest-1/x") == "/m/t file:///tmp/pytest-1/x"


def test_variables_are_expanded_as_kubernetes_does() -> None:
    """Unknown names stay as they are; a doubled sign is an escape."""
    assert expand("$(A)-$(B)-$$(A)-$A", {"A": "1"}) == "1-$(B)-$(A)-$A"
