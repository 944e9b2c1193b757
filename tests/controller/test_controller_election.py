"""Two operators as real processes on a real API server: who works, and what becomes of the work when one goes."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from controller.life import make_churn
from kubeautoml.controller.lease import EXIT_CODE
from real.operator_process import OperatorProcess, running_operator
from real.proxy import FaultyProxy, Mode, faulty_proxy

if TYPE_CHECKING:
    from real.controlplane import ControlPlane

pytestmark = pytest.mark.controlplane

JOBS = "/apis/kubeautoml.dev/v1alpha1/namespaces/{}/automljobs"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/{}/leases/kubeautoml-operator"
WORKERS = "/apis/batch/v1/namespaces/{}/jobs"


def wait_for(holds: Callable[[], bool], what: str, *operators: OperatorProcess) -> float:
    """Seconds until it holds; generous, since the machine may be busy."""
    began = time.monotonic()
    while not holds():
        said = [operator.log.read_text() for operator in operators]
        assert time.monotonic() - began < 90, f"not within 90 s: {what}; {said}"
        time.sleep(0.05)
    return time.monotonic() - began


def leads(operator: OperatorProcess) -> bool:
    return operator.metric("kubeautoml_leader") == 1


def create_job(plane: ControlPlane, namespace: str, name: str) -> None:
    manifest = make_churn()
    manifest["metadata"] = {"name": name, "namespace": namespace}
    plane.admin.post(JOBS.format(namespace), manifest)


def has_workers(plane: ControlPlane, namespace: str, name: str) -> bool:
    jobs = plane.admin.items(WORKERS.format(namespace))
    return any(job["metadata"]["labels"]["kubeautoml.dev/job"] == name for job in jobs)


@pytest.mark.slow
def test_one_works_and_another_takes_over(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    """At once after SIGTERM, after the lease's time after SIGKILL; a standby is ready, warm, and does nothing."""
    plane = control_plane

    def operator(name: str) -> AbstractContextManager[OperatorProcess]:
        return running_operator(plane, tmp_path / f"{name}.log", "-n", namespace, lease_namespace=namespace)

    with operator("a") as a, operator("b") as b:
        wait_for(lambda: leads(a) or leads(b), "somebody leads", a, b)
        first, second = (a, b) if leads(a) else (b, a)
        create_job(plane, namespace, "one")
        wait_for(lambda: has_workers(plane, namespace, "one"), "the job has workers", first)
        wait_for(lambda: second.ask("/readyz")[0] == 200, "the standby is ready", second)
        wait_for(lambda: second.metric("kubeautoml_queue_depth", lane="Event") == 1, "its queue is warm", second)
        standby = (leads(second), second.metric("kubeautoml_reconcile_duration_seconds_count"))

        first.process.terminate()
        taken = wait_for(lambda: leads(second), "the standby leads after SIGTERM", second)
        code = first.process.wait(30)
        create_job(plane, namespace, "two")
        wait_for(lambda: has_workers(plane, namespace, "two"), "the new leader works", second)

        assert standby == (False, 0)
        assert code == 0 and first.said("lease released")
        assert taken < 10, "a released lease is not waited for"

        with operator("c") as third:
            wait_for(lambda: third.ask("/readyz")[0] == 200, "the third is ready", third)
            second.process.kill()
            taken = wait_for(lambda: leads(third), "the standby leads after SIGKILL", third)
            create_job(plane, namespace, "three")
            wait_for(lambda: has_workers(plane, namespace, "three"), "the third works", third)
            assert taken > 5, "the lease of a dead operator is respected"

            stolen = {"spec": {"holderIdentity": "somebody"}}
            plane.admin.patch(LEASE.format(namespace), stolen)
            assert third.process.wait(60) == EXIT_CODE
            line = third.said("leadership lost, so this process ends")
            assert line is not None and line["why"] == "somebody holds the lease"


@pytest.mark.slow
def test_who_cannot_renew_ends(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    """Ten seconds after the last confirmed renewal, whether connections are refused, answers are lost, nothing moves any more,
    or the machine froze.

    A frozen one (SIGSTOP) finds out before it writes: another may lead when it wakes. Each has a lease of its own; that
    they are cut off at the same time saves time.
    """
    with ExitStack() as stack:
        refused, deaf, hung, frozen = (
            _operator_behind_a_proxy(stack, control_plane, namespace, tmp_path, name)
            for name in ("refused", "deaf", "hung", "frozen")
        )
        cut_off = (refused, deaf, hung)
        for operator, _ in (*cut_off, frozen):
            wait_for(lambda one=operator: leads(one), "it leads", operator)  # type: ignore[misc]
        began = time.monotonic()
        refused[1].set_mode(Mode.REFUSE)
        deaf[1].set_mode(Mode.DEAF)
        hung[1].set_mode(Mode.HANG)
        frozen[0].process.send_signal(signal.SIGSTOP)
        codes = [operator.process.wait(60) for operator, _ in cut_off]
        seconds = time.monotonic() - began
        time.sleep(max(0.0, 10.5 - seconds))
        create_job(control_plane, namespace, "late")
        frozen[0].process.send_signal(signal.SIGCONT)
        codes.append(frozen[0].process.wait(60))

    assert codes == [EXIT_CODE] * 4
    assert seconds > 5, "one missed renewal is not the end"
    assert not has_workers(control_plane, namespace, "late")
    for operator, _ in cut_off:
        line = operator.said("leadership lost, so this process ends")
        assert line is not None and line["why"] == "no renewal was confirmed for 10 s"


def _operator_behind_a_proxy(
    stack: ExitStack, plane: ControlPlane, namespace: str, folder: Path, name: str
) -> tuple[OperatorProcess, FaultyProxy]:
    port = urlsplit(plane.server).port
    assert port is not None
    proxy = stack.enter_context(faulty_proxy(port))
    config = json.loads(plane.operator_kubeconfig().read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{proxy.port}"
    kubeconfig = folder / f"{name}.kubeconfig"
    kubeconfig.write_text(json.dumps(config))
    lease_namespace = f"{namespace}-{name}"
    plane.create_namespace(lease_namespace)
    running = running_operator(
        plane, folder / f"{name}.log", "-n", namespace, lease_namespace=lease_namespace, kubeconfig=kubeconfig
    )
    return stack.enter_context(running), proxy
