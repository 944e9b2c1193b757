"""LocalCluster: the contract, and Jobs and Deployments as processes on this machine."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cluster.contract import ClusterContract, eventually, make_service
from kubeautoml.api.errors import ClusterError
from kubeautoml.api.names import Env
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.cluster.local import LocalCluster
from kubeautoml.cluster.local_job import is_finished

WORKERS = Ref("Job", "team-a", "w")
SERVER = Ref("Deployment", "team-a", "server")

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(tmp_path, backoff_seconds=0.05, max_grace_seconds=2) as cluster:
        yield cluster


class TestLocalCluster(ClusterContract):
    @pytest.fixture
    async def cluster(self, tmp_path: Path) -> AsyncIterator[LocalCluster]:
        async with LocalCluster(tmp_path, backoff_seconds=0.05, max_grace_seconds=2) as cluster:
            yield cluster

    async def edit(self, cluster: Any, ref: Ref, patch: Manifest) -> None:
        await cluster.edit(ref, patch)

    async def messages(self, cluster: Any, namespace: str, uid: str) -> list[str]:
        return [e.event.message for e in cluster.events if e.uid == uid]


def make_workers(
    code: str, *, parallelism: int = 1, container: Manifest | None = None, pod: Manifest | None = None, **spec: Any
) -> Manifest:
    """A batch Job whose pods run Python code."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "w", "namespace": "team-a"},
        "spec": {
            "parallelism": parallelism,
            "backoffLimit": 3,
            **spec,
            "template": {
                "metadata": {"labels": {"app": "w"}},
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [
                        {
                            "name": "main",
                            "image": "none",
                            "command": [sys.executable, "-S", "-c", textwrap.dedent(code)],
                            **(container or {}),
                        }
                    ],
                    **(pod or {}),
                },
            },
        },
    }


async def pods_of(cluster: LocalCluster) -> list[Manifest]:
    return await cluster.list("Pod", "team-a", {"app": "w"})


async def phases(cluster: LocalCluster) -> list[str]:
    return sorted(p["status"]["phase"] for p in await pods_of(cluster))


async def until_finished(cluster: LocalCluster) -> Manifest:
    """The Job, once it is Complete or Failed."""

    async def finished() -> bool:
        job = await cluster.get(WORKERS)
        return job is not None and is_finished(job)

    await eventually(finished, "the Job is finished")
    job = await cluster.get(WORKERS)
    assert job is not None
    return job


async def until_phases(cluster: LocalCluster, *expected: str) -> None:
    async def reached() -> bool:
        return await phases(cluster) == sorted(expected)

    await eventually(reached, f"pods are {expected}")


def condition(manifest: Manifest, kind: str) -> Manifest:
    return next(c for c in manifest["status"]["conditions"] if c["type"] == kind)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def logged(cluster: LocalCluster, pod: Manifest, text: str) -> None:
    """Wait until a pod has printed something."""
    log = cluster.log_file(pod["metadata"]["name"])

    async def printed() -> bool:
        return log.exists() and text in log.read_text()

    await eventually(printed, f"{text!r} is in {log}")


# Jobs


async def test_a_job_runs_its_pods_and_completes(cluster: LocalCluster) -> None:
    """Each of the parallel pods runs the command once; all succeed; the Job is Complete."""
    await cluster.apply(make_workers("print('hello')", parallelism=2))

    job = await until_finished(cluster)

    pods = await pods_of(cluster)
    assert job["status"]["succeeded"] == 2
    assert condition(job, "Complete")["status"] == "True"
    assert "completionTime" in job["status"] and "active" not in job["status"]
    assert [p["status"]["phase"] for p in pods] == ["Succeeded", "Succeeded"]
    assert {p["metadata"]["ownerReferences"][0]["uid"] for p in pods} == {job["metadata"]["uid"]}
    assert [cluster.log_file(p["metadata"]["name"]).read_text() for p in pods] == ["hello\n", "hello\n"]


async def test_an_ended_process_is_seen_at_once(cluster: LocalCluster) -> None:
    """Between the exit of a process and the phase of its pod lie less than 100 ms (median of five)."""
    await cluster.apply(make_workers("import time; time.sleep(60)", parallelism=1, backoffLimit=9))
    delays = []
    for failures in range(5):
        await until_phases(cluster, *["Failed"] * failures, "Running")
        pod = next(p for p in await pods_of(cluster) if p["status"]["phase"] == "Running")
        changes = cluster.watch("Pod", "team-a")
        began = time.monotonic()
        os.kill(cluster.pid_of(pod["metadata"]["name"]), signal.SIGKILL)
        async for change in changes:
            if change.manifest["metadata"]["uid"] == pod["metadata"]["uid"] and (
                change.manifest["status"]["phase"] == "Failed"
            ):
                break
        delays.append(time.monotonic() - began)

    assert sorted(delays)[2] < 0.1, delays


async def test_the_environment_reaches_the_process(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values, the pod's own fields, references to other variables, and what this process inherited."""
    show = "import os; print(*(os.environ[n] for n in ('A', 'B', 'POD', 'UID', 'PATH')), sep='|')"
    env = [
        {"name": "A", "value": "1"},
        {"name": "B", "value": "$(A)2 $$(A) $(UNKNOWN)"},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
    ]
    await cluster.apply(make_workers(show, container={"env": env}))

    await until_finished(cluster)

    [pod] = await pods_of(cluster)
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    expected = ["1", "12 $(A) $(UNKNOWN)", name, uid, os.environ["PATH"]]
    assert cluster.log_file(name).read_text().rstrip("\n").split("|") == expected


async def test_scratch_is_a_folder_of_the_pod_and_credentials_are_left_out(cluster: LocalCluster) -> None:
    """An emptyDir's path is a real, empty folder that goes with the pod; paths into secrets are not set at all."""
    show = """
        import os
        print(os.environ["KUBEAUTOML_SCRATCH_DIR"], os.listdir(os.environ["KUBEAUTOML_SCRATCH_DIR"]))
        print(sorted(n for n in os.environ if "CREDENTIALS" in n or "TOKEN_FILE" in n))
    """
    container = {
        "env": [
            {"name": Env.SCRATCH_DIR.value, "value": "/scratch/work"},
            {"name": Env.OUTPUT_CREDENTIALS_DIR.value, "value": "/secrets/output"},
            {"name": Env.STUDY_TOKEN_FILE.value, "value": "/tokens/study/token"},
        ],
        "volumeMounts": [
            {"name": "scratch", "mountPath": "/scratch/work"},
            {"name": "output", "mountPath": "/secrets/output"},
            {"name": "token", "mountPath": "/tokens/study"},
        ],
    }
    volumes = [
        {"name": "scratch", "emptyDir": {}},
        {"name": "output", "secret": {"secretName": "models-rw"}},
        {"name": "token", "projected": {"sources": []}},
    ]
    await cluster.apply(make_workers(show, container=container, pod={"volumes": volumes}))

    await until_finished(cluster)

    [pod] = await pods_of(cluster)
    first, second = cluster.log_file(pod["metadata"]["name"]).read_text().splitlines()
    folder, listing = first.split(" ", 1)
    assert (listing, second) == ("[]", "[]")
    assert folder.endswith("/scratch") and not Path(folder).exists()


async def test_our_own_command_needs_no_path(tmp_path: Path) -> None:
    """`kubeautoml` is run by the interpreter that runs this."""
    async with LocalCluster(tmp_path, environment={}) as cluster:
        await cluster.apply(make_workers("", container={"command": ["kubeautoml"], "args": ["--help"]}))
        await until_finished(cluster)

        [pod] = await pods_of(cluster)
        assert "usage: kubeautoml" in cluster.log_file(pod["metadata"]["name"]).read_text()


async def test_a_failed_pod_is_replaced_until_the_limit(cluster: LocalCluster) -> None:
    """backoffLimit failures are forgiven; one more fails the Job, with the exit codes and last lines in the pods."""
    await cluster.apply(make_workers("import sys; print('a\\nout of luck'); sys.exit(3)", backoffLimit=2))

    job = await until_finished(cluster)

    ended = [p["status"]["containerStatuses"][0]["state"]["terminated"] for p in await pods_of(cluster)]
    assert (job["status"]["failed"], condition(job, "Failed")["reason"]) == (3, "BackoffLimitExceeded")
    assert [(e["exitCode"], e["reason"], e["message"]) for e in ended] == [(3, "Error", "out of luck")] * 3


async def test_once_a_pod_succeeded_no_new_one_starts(cluster: LocalCluster) -> None:
    """A work queue is empty when one worker says so: the others may end, failed ones are not replaced."""
    code = """
        import os, sys, time
        try:
            os.close(os.open("{lock}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            time.sleep(0.5)
            sys.exit(1)
    """
    lock = cluster.log_file("x").parent.parent / "lock"
    await cluster.apply(make_workers(code.format(lock=lock), parallelism=2))

    job = await until_finished(cluster)

    assert (job["status"]["succeeded"], job["status"]["failed"]) == (1, 1)
    assert condition(job, "Complete")["status"] == "True"
    assert await phases(cluster) == ["Failed", "Succeeded"]


async def test_completions_are_counted(cluster: LocalCluster) -> None:
    """With `completions` a Job runs until that many pods succeeded, at most `parallelism` at once."""
    await cluster.apply(make_workers("pass", parallelism=1, completions=3))

    job = await until_finished(cluster)

    assert job["status"]["succeeded"] == 3


async def test_parallelism_may_change(cluster: LocalCluster) -> None:
    """More workers start at once; fewer end the youngest, which counts as no failure."""
    sleep = "import time; time.sleep(60)"
    await cluster.apply(make_workers(sleep, parallelism=1))
    await until_phases(cluster, "Running")
    [oldest] = await pods_of(cluster)

    await cluster.apply(make_workers(sleep, parallelism=3))
    await until_phases(cluster, "Running", "Running", "Running")
    await cluster.apply(make_workers(sleep, parallelism=1))
    await until_phases(cluster, "Running")

    job = await cluster.get(WORKERS)
    assert [p["metadata"]["uid"] for p in await pods_of(cluster)] == [oldest["metadata"]["uid"]]
    assert job is not None and job["status"]["active"] == 1 and "failed" not in job["status"]


async def test_suspending_ends_the_pods_and_resuming_starts_new_ones(cluster: LocalCluster) -> None:
    """Suspension is no failure."""
    sleep = "import time; time.sleep(60)"
    await cluster.apply(make_workers(sleep))
    await until_phases(cluster, "Running")

    await cluster.apply(make_workers(sleep, suspend=True))
    await until_phases(cluster)
    suspended = await cluster.get(WORKERS)
    await cluster.apply(make_workers(sleep, suspend=False))
    await until_phases(cluster, "Running")

    resumed = await cluster.get(WORKERS)
    assert suspended is not None and condition(suspended, "Suspended")["status"] == "True"
    assert resumed is not None and condition(resumed, "Suspended")["status"] == "False"
    assert "failed" not in resumed["status"]


async def test_a_deleted_pod_gets_sigterm_and_is_replaced(cluster: LocalCluster) -> None:
    """Deleting a pod lets its process end in its own way; the Job counts a failure and starts another."""
    code = """
        import signal, sys, time
        def leave(number, frame):
            print("saved", flush=True)
            sys.exit(143)
        signal.signal(signal.SIGTERM, leave)
        print("ready", flush=True)
        time.sleep(60)
    """
    await cluster.apply(make_workers(code))
    await until_phases(cluster, "Running")
    [pod] = await pods_of(cluster)
    await logged(cluster, pod, "ready")

    await cluster.delete(Ref.of(pod))

    async def replaced() -> bool:
        return [p["metadata"]["uid"] != pod["metadata"]["uid"] for p in await pods_of(cluster)] == [True]

    await eventually(replaced, "another pod took its place")
    job = await cluster.get(WORKERS)
    assert cluster.log_file(pod["metadata"]["name"]).read_text() == "ready\nsaved\n"
    assert job is not None and job["status"]["failed"] == 1


async def test_a_process_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    """After the grace period the whole process group gets SIGKILL; the Job's deletion leaves nothing."""
    code = """
        import signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
        child = subprocess.Popen([sys.executable, "-S", "-c", deaf])
        print("child", child.pid, flush=True)
        time.sleep(60)
    """
    async with LocalCluster(tmp_path) as cluster:
        await cluster.apply(make_workers(code, pod={"terminationGracePeriodSeconds": 0}))
        await until_phases(cluster, "Running")
        [pod] = await pods_of(cluster)
        await logged(cluster, pod, "child")
        pids = [cluster.pid_of(pod["metadata"]["name"])]
        pids.append(int(cluster.log_file(pod["metadata"]["name"]).read_text().split()[1]))

        await cluster.delete(WORKERS)
        await until_phases(cluster)

        async def all_gone() -> bool:
            return not any(is_alive(pid) for pid in pids)

        await eventually(all_gone, "both processes are gone")


async def test_a_command_that_does_not_exist_fails_with_its_name(cluster: LocalCluster) -> None:
    """Exit code 127, and a line that names the command."""
    await cluster.apply(make_workers("", container={"command": ["/no/such/program"]}, backoffLimit=0))

    await until_finished(cluster)

    [pod] = await pods_of(cluster)
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (127, "StartError")
    assert ended["message"] == "/no/such/program: No such file or directory"


async def test_a_pod_failure_policy_is_obeyed(cluster: LocalCluster) -> None:
    """A rule may end the Job at the first failure with a certain exit code."""
    rules = [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]
    await cluster.apply(make_workers("raise SystemExit(42)", podFailurePolicy={"rules": rules}))

    job = await until_finished(cluster)

    assert (job["status"]["failed"], condition(job, "Failed")["reason"]) == (1, "PodFailurePolicy")


async def test_a_job_has_a_deadline(cluster: LocalCluster) -> None:
    """activeDeadlineSeconds ends the pods and fails the Job."""
    await cluster.apply(make_workers("import time; time.sleep(60)", activeDeadlineSeconds=1))

    job = await until_finished(cluster)

    assert condition(job, "Failed")["reason"] == "DeadlineExceeded"
    assert await phases(cluster) == []


async def test_a_pod_of_two_containers_is_refused(cluster: LocalCluster) -> None:
    """What cannot be run here is said at once."""
    job = make_workers("pass")
    job["spec"]["template"]["spec"]["containers"].append({"name": "mesh", "image": "mesh:1"})

    with pytest.raises(ClusterError, match="must have one container, got 2"):
        await cluster.apply(job)


# Life of the cluster itself


async def test_leaving_ends_every_process(tmp_path: Path) -> None:
    """close() ends what runs, what just starts, and may be called again."""
    cluster = LocalCluster(tmp_path)
    await cluster.apply(make_workers("import time; time.sleep(60)", parallelism=3))
    await until_phases(cluster, "Running", "Running", "Running")
    pids = [cluster.pid_of(p["metadata"]["name"]) for p in await pods_of(cluster)]
    await cluster.apply(make_workers("import time; time.sleep(60)", parallelism=5))
    await asyncio.sleep(0)

    await cluster.close()
    await cluster.close()

    assert not any(is_alive(pid) for pid in pids)
    assert not (tmp_path / "pods").exists()


async def test_an_idle_cluster_uses_no_cpu(cluster: LocalCluster) -> None:
    """While processes sleep, this one does, too: under 2 % of a core."""
    await cluster.apply(make_workers("import time; time.sleep(60)", parallelism=2))
    await until_phases(cluster, "Running", "Running")
    await asyncio.sleep(0.2)

    before, began = time.process_time(), time.monotonic()
    await asyncio.sleep(1)

    assert (time.process_time() - before) / (time.monotonic() - began) < 0.02


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
async def test_processes_die_with_a_killed_parent(tmp_path: Path) -> None:
    """SIGKILL to the process that owns the cluster leaves no worker."""
    code = """
        import asyncio, pathlib, sys
        from kubeautoml.cluster.local import LocalCluster

        async def main():
            async with LocalCluster(pathlib.Path(sys.argv[1])) as cluster:
                job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "w", "namespace": "a"}, "spec": {
                    "parallelism": 2, "template": {"spec": {"restartPolicy": "Never", "containers": [
                        {"name": "main", "command": [sys.executable, "-S", "-c",
                         "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]}]}}}}
                await cluster.apply(job)
                await asyncio.sleep(60)

        asyncio.run(main())
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)])

    def pids() -> list[int]:
        return [int(f.read_text()) for f in (tmp_path / "logs").glob("*.log") if f.read_text().endswith("\n")]

    async def both_run() -> bool:
        return len(pids()) == 2

    async def none_runs() -> bool:
        return not any(is_alive(pid) for pid in pids())

    try:
        await eventually(both_run, "two workers run")
        parent.kill()
        parent.wait()
        await eventually(none_runs, "no worker is left")
    finally:
        parent.kill()


# Deployments

HTTP_SERVER = """
    import http.server, os, sys

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path in ("/ready", "/") else 404)
            self.end_headers()
            self.wfile.write(b"{version}")
        def log_message(self, *args):
            pass

    address = (os.environ["KUBEAUTOML_BIND_HOST"], int(os.environ["KUBEAUTOML_PORT"]))
    http.server.HTTPServer(address, Handler).serve_forever()
"""


def make_server(version: str, *, code: str = HTTP_SERVER, path: str = "/ready", replicas: int = 1) -> Manifest:
    """A Deployment of a tiny HTTP server."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "server", "namespace": "team-a"},
        "spec": {
            "replicas": replicas,
            "progressDeadlineSeconds": 1,
            "selector": {"matchLabels": {"app": "server"}},
            "template": {
                "metadata": {"labels": {"app": "server"}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [
                        {
                            "name": "server",
                            "image": "none",
                            "command": [sys.executable, "-c", textwrap.dedent(code).replace("{version}", version)],
                            "ports": [{"name": "http", "containerPort": 8080}],
                            "env": [{"name": Env.PORT.value, "value": "8080"}],
                            "readinessProbe": {"httpGet": {"path": path, "port": "http"}, "periodSeconds": 1},
                        }
                    ],
                },
            },
        },
    }


@pytest.fixture
async def serving(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(tmp_path, serve=True) as cluster:
        yield cluster


async def fetched(cluster: LocalCluster) -> str:
    """What the endpoint answers; empty while there is none."""
    url = cluster.endpoint(SERVER)
    if url is None:
        return ""

    def read() -> str:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(read)


async def until_answered(cluster: LocalCluster, version: str) -> None:
    async def answers() -> bool:
        return await fetched(cluster) == version

    await eventually(answers, f"the endpoint answers {version}")


async def test_a_deployment_is_available_once_its_server_is_ready(serving: LocalCluster) -> None:
    """The endpoint answers on this machine; the status counts as a real Deployment's does."""
    await serving.apply(make_server("one"))

    await until_answered(serving, "one")

    deployment = await serving.get(SERVER)
    assert deployment is not None
    status = deployment["status"]
    assert (status["observedGeneration"], status["replicas"], status["availableReplicas"]) == (1, 1, 1)
    assert condition(deployment, "Available")["status"] == "True"
    assert condition(deployment, "Progressing")["reason"] == "NewReplicaSetAvailable"


async def test_the_old_server_stays_until_the_new_one_answers(serving: LocalCluster) -> None:
    """A new template starts beside the old server; a version that never gets ready replaces nothing and says so."""
    await serving.apply(make_server("one"))
    await until_answered(serving, "one")

    await serving.apply(make_server("bad", path="/never"))

    async def stuck() -> bool:
        deployment = await serving.get(SERVER)
        return deployment is not None and condition(deployment, "Progressing")["status"] == "False"

    await eventually(stuck, "the roll-out missed its deadline")
    still = await fetched(serving)
    await serving.apply(make_server("two"))
    await until_answered(serving, "two")

    async def alone() -> bool:
        return len(await serving.list("Pod", "team-a")) == 1

    await eventually(alone, "only the new server is left")
    assert still == "one"


async def test_a_crashing_server_is_started_again(serving: LocalCluster) -> None:
    """The pod stays, counts restarts, and says CrashLoopBackOff while it waits."""
    await serving.apply(make_server("x", code="raise SystemExit('no model')"))

    async def looping() -> bool:
        pods = await serving.list("Pod", "team-a")
        states = [p["status"].get("containerStatuses", [{}])[0] for p in pods]
        return [s.get("state", {}).get("waiting", {}).get("reason") for s in states] == ["CrashLoopBackOff"] and (
            states[0]["restartCount"] >= 2
        )

    await eventually(looping, "the pod is in its crash loop")


async def test_without_serving_a_deployment_is_only_stored(cluster: LocalCluster) -> None:
    """No process, no status, no endpoint."""
    await cluster.apply(make_server("one"))
    await cluster.apply(make_service("team-a", "server"))
    await asyncio.sleep(0.05)

    assert await cluster.list("Pod") == []
    assert cluster.endpoint(SERVER) is None
