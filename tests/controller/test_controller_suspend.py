"""Suspending on a real Job controller and garbage collector, with pods that run as processes and do not want to leave."""

from __future__ import annotations

import asyncio
import sys
import textwrap
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from controller.life import make_churn
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.controller.observe import parse_job
from kubeautoml.controller.reconcile import reconcile
from kubeautoml.controller.settings import OperatorSettings
from kubeautoml.controller.studies import Studies
from kubeautoml.plan.base import Settings

if TYPE_CHECKING:
    from kubeautoml.cluster.kube import KubeCluster
    from real.controlplane import ControlPlane
    from real.kubelet import Kubelet

pytestmark = [pytest.mark.controlplane, pytest.mark.slow, pytest.mark.anyio]

LIMIT_SECONDS = 15.0

WORKER = textwrap.dedent("""
    import os, signal, time
    from kubeautoml.api.pod import PodContext
    from kubeautoml.api.trials import DataFacts, StudyAttr
    from kubeautoml.study import create_study, open_study_storage, set_study_attr

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    context = PodContext.from_env(os.environ)
    study = create_study(open_study_storage(context.study_url), context.job.study_name, context.job.direction)
    set_study_attr(study, StudyAttr.DATA, DataFacts(80, 9, 20, 5, 2, "a" * 64))
    while True:
        trial = study.ask()
        trial.set_user_attr("pod_uid", context.pod_uid)
        trial.set_user_attr("family", "Linear")
        x = trial.suggest_float("x", 0, 1)
        time.sleep(0.3 if trial.number < 4 else 3600)
        study.tell(trial, x)
""")


async def test_a_suspended_job_has_no_worker_after_15_seconds_and_every_finished_trial(
    control_plane: ControlPlane, kubelet: Kubelet, kube_cluster: KubeCluster, namespace: str, tmp_path: Path
) -> None:
    """Workers that ignore SIGTERM in the middle of an hour's trial: killed in time, their trials queued again."""
    ref = Ref("AutoMLJob", namespace, "churn")
    studies = Studies()
    settings = OperatorSettings(plan=Settings(study_url=f"journal://{tmp_path}/study.log"))
    apply = kube_cluster.apply

    async def with_worker(manifest: Manifest) -> Manifest:
        if manifest["kind"] == "Job":
            [container] = manifest["spec"]["template"]["spec"]["containers"]
            container |= {"command": [sys.executable, "-c", WORKER], "args": []}
        return await apply(manifest)

    kube_cluster.apply = with_worker  # type: ignore[method-assign]
    path = f"/apis/kubeautoml.dev/v1alpha1/namespaces/{namespace}/automljobs"
    manifest = make_churn(budget={"maxTrials": 100}, serving=None)
    control_plane.admin.post(path, {**manifest, "metadata": {"name": "churn"}})

    def pods() -> int:
        return len(control_plane.admin.items(f"/api/v1/namespaces/{namespace}/pods"))

    async def trials() -> tuple[int, int, int]:
        await reconcile(ref, kube_cluster, studies, lambda: datetime.now(UTC), settings)
        found = await kube_cluster.get(ref)
        assert found is not None
        job = parse_job(found)
        meta = job.metadata
        seen = await studies.summary(settings.plan.study_url, f"{meta.namespace}/{meta.name}/{meta.uid}")
        return (seen.completed, seen.running, seen.failed) if seen else (0, 0, 0)

    try:
        until = time.monotonic() + 90
        while await trials() != (4, 2, 0):
            assert time.monotonic() < until, kubelet.all_logs(namespace)
            await asyncio.sleep(0.5)
        assert pods() == 2

        control_plane.admin.patch(f"{path}/churn", {"spec": {"suspend": True}})
        began = time.monotonic()
        while pods() > 0 and time.monotonic() < began + 60:
            await trials()
            await asyncio.sleep(0.5)
        took = time.monotonic() - began
        await trials()

        assert took <= LIMIT_SECONDS
        assert await trials() == (4, 0, 0)
    finally:
        studies.close()
