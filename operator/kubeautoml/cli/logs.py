"""`kubectl automl logs NAME`: the logs of all pods of a job, each line with the pod it comes from."""

from __future__ import annotations

import argparse
import asyncio
import sys

from kubeautoml.api.names import LABEL_COMPONENT, LABEL_JOB_UID
from kubeautoml.api.objects import Ref
from kubeautoml.cli.connection import add_connection, connect, get_job, wait_for
from kubeautoml.cluster.kube import KubeCluster


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="kubectl automl logs", description=__doc__)
    parser.add_argument("name", help="name of the AutoMLJob")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the pods end")
    parser.add_argument("--tail", type=int, default=-1, help="only the last so many lines of each pod")
    parser.add_argument("-c", "--component", choices=["worker", "finalizer", "server"], help="only pods of this kind")
    add_connection(parser)
    args = parser.parse_args(argv)
    cluster = connect(args)
    job = get_job(args, cluster)
    labels = {LABEL_JOB_UID: job["metadata"]["uid"]}
    if args.component:
        labels[LABEL_COMPONENT] = args.component
    pods = wait_for(cluster.list("Pod", job["metadata"]["namespace"], labels))
    if not pods:
        print(
            f"AutoMLJob {args.name} has no pods; after its end they go with retention.ttlSecondsAfterFinished",
            file=sys.stderr,
        )
        return 1
    wait_for(_print_all(cluster, [Ref.of({"kind": "Pod", **p}) for p in pods], follow=args.follow, tail=args.tail))
    return 0


async def _print_all(cluster: KubeCluster, pods: list[Ref], *, follow: bool, tail: int) -> None:
    async def one(pod: Ref) -> None:
        async for line in cluster.pod_log(pod, follow=follow, tail_lines=None if tail < 0 else tail):
            print(f"[{pod.name}] {line}", flush=True)

    if follow:
        await asyncio.gather(*(one(p) for p in pods))
    else:
        for pod in pods:
            await one(pod)
