"""LocalCluster: Jobs as processes on this machine."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from cluster.contract import eventually
from cluster.local_factories import (
    WORKERS,
    condition,
    is_alive,
    logged,
    make_workers,
    phases,
    pods_of,
    until_finished,
    until_phases,
)
from kubeautoml.api.errors import ClusterError
from kubeautoml.api.names import Env
from kubeautoml.api.objects import Ref
from kubeautoml.cluster.local import LocalCluster

pytestmark = pytest.mark.anyio


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
        assert await cluster.get(WORKERS) is None


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
