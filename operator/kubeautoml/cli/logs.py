"""`kubectl automl logs NAME`: the logs of all pods of a job, in the order of time, each line with its pod and its trial."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import deque
from collections.abc import AsyncIterator

from rich.text import Text

from kubeautoml.api.errors import ClusterError
from kubeautoml.api.names import LABEL_COMPONENT, LABEL_JOB_UID, Component
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.cli.connection import add_connection, add_name, as_job, connect, find_job, wait_for
from kubeautoml.cli.job_view import has_ended
from kubeautoml.cli.log_lines import LogLine, in_order, seconds_of
from kubeautoml.cli.parser import VerbParser
from kubeautoml.cli.view import output_console
from kubeautoml.cluster.kube import KubeCluster

LOOK_SECONDS = 1.0
"""Between two looks for new pods while logs are followed."""

RECENT_LINES = 500
"""Of each pod, to know again after a break; more within two seconds would be printed twice."""

COMPONENTS = (Component.WORKER, Component.FINALIZER, Component.SERVER)
CONTAINERS = ("worker", "finalize", "serve")
"""What ours are called; beside them there may be others, put there by a service mesh, say."""

COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_green", "bright_magenta")


def parser() -> VerbParser:
    made = VerbParser(
        "logs",
        __doc__,
        "kubectl automl logs churn -f",
        "kubectl automl logs churn -c worker --trial 3",
        "kubectl automl logs churn --since 10m -o json | jq 'select(.level != \"info\")'",
    )
    add_name(made)
    made.add_argument("-f", "--follow", action="store_true", help="go on until the job's pods end, with those to come")
    made.add_argument(
        "--tail", type=int, default=-1, metavar="N", help="only the last N lines of each pod; default: all"
    )
    made.add_argument("--since", type=_since, metavar="TIME", help="only lines of so long, such as 45s, 10m or 1h30m")
    made.add_argument("-c", "--component", choices=[c.value for c in COMPONENTS], help="only pods of this kind")
    made.add_argument("--trial", type=int, metavar="N", help="only lines about this trial")
    made.add_argument(
        "-p", "--previous", action="store_true", help="of containers that were started again, the one before"
    )
    made.add_argument("-o", "--output", choices=["text", "json", "raw"], default="text",
                      help="text for people (default), json with the pod in each line, or raw as the pods write it")  # fmt: skip
    add_connection(made)
    return made


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    return wait_for(_print_logs(args, connect(args)))


def _since(text: str) -> int:
    try:
        return seconds_of(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a time such as 45s, 10m or 1h30m, got {text!r}") from None


async def _print_logs(args: argparse.Namespace, cluster: KubeCluster) -> int:
    job = await find_job(args, cluster)
    show = _Printer(args)
    if args.follow:
        return await _Following(args, cluster, job, show).run()
    pods = await _pods(args, cluster, job)
    if not pods:
        print(f"error: {_no_pods(args, job)}", file=sys.stderr)
        return 1
    read = await asyncio.gather(*(_read(args, cluster, pod) for pod in pods))
    for line in in_order([lines for lines, _ in read]):
        show(line)
    problems = [problem for _, problem in read if problem]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if len(problems) == len(pods) else 0


async def _pods(args: argparse.Namespace, cluster: KubeCluster, job: Manifest) -> list[Manifest]:
    """The job's pods that were asked for, oldest first."""
    labels = {LABEL_JOB_UID: job["metadata"]["uid"]}
    if args.component:
        labels[LABEL_COMPONENT] = args.component
    found = await cluster.list("Pod", job["metadata"]["namespace"], labels)
    return sorted(found, key=lambda p: (p["metadata"].get("creationTimestamp", ""), p["metadata"]["name"]))


def _no_pods(args: argparse.Namespace, job: Manifest) -> str:
    """Why there may be none, and what to do."""
    what = f"AutoMLJob '{args.name}' has no {f'{args.component} ' if args.component else ''}pods"
    if has_ended(as_job(job)):
        return (
            f"{what} any more: they go some time after the end (spec.retention.ttlSecondsAfterFinished), and their logs with them; "
            f"what was found stays in: kubectl automl status {args.name}"
        )
    return f"{what} yet; wait for them with: kubectl automl logs {args.name} --follow"


async def _read(args: argparse.Namespace, cluster: KubeCluster, pod: Manifest) -> tuple[list[LogLine], str]:
    """(the log of one pod as far as it can be read, why it is not all)."""
    name, lines = pod["metadata"]["name"], []
    try:
        async for line in _lines(args, cluster, pod):
            lines.append(line)
    except ClusterError as error:
        return lines, f"[{name}] no log: {error}"
    return lines, ""


async def _lines(
    args: argparse.Namespace, cluster: KubeCluster, pod: Manifest, *, follow: bool = False
) -> AsyncIterator[LogLine]:
    name = pod["metadata"]["name"]
    how = {
        "follow": follow,
        "tail_lines": None if args.tail < 0 else args.tail,
        "since_seconds": args.since,
        "container": _container(pod),
        "previous": args.previous,
    }
    async for raw in cluster.pod_log(Ref("Pod", pod["metadata"]["namespace"], name), **how):
        line = LogLine.of(name, raw)
        if args.trial is None or line.trial == args.trial:
            yield line


def _container(pod: Manifest) -> str | None:
    names = [c["name"] for c in pod.get("spec", {}).get("containers", [])]
    return next((name for name in names if name in CONTAINERS), names[0] if names else None)


class _Following:
    """Follows the logs of the pods there are and of those that come, until the job has ended and they have."""

    def __init__(self, args: argparse.Namespace, cluster: KubeCluster, job: Manifest, show: _Printer) -> None:
        self._args, self._cluster, self._show = args, cluster, show
        self._job, self._ref = job, Ref.of(job)
        self._follows: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> int:
        """The exit code."""
        try:
            while await self._look():
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            for task in self._follows.values():
                task.cancel()
        if not self._follows:
            print(f"error: {_no_pods(self._args, self._job)}", file=sys.stderr)
        return 0 if self._follows else 1

    async def _look(self) -> bool:
        """Follow what is new; whether anything can still come."""
        had_ended = has_ended(as_job(self._job))
        pods = await _pods(self._args, self._cluster, self._job)
        for pod in pods:
            meta, phase = pod["metadata"], pod.get("status", {}).get("phase")
            if meta["uid"] not in self._follows and phase in ("Running", "Succeeded", "Failed"):
                self._follows[meta["uid"]] = asyncio.create_task(self._follow(pod))
        for task in self._follows.values():
            if task.done() and (error := task.exception()):
                raise error
        if any(not task.done() for task in self._follows.values()):
            return True
        waits = any(p.get("status", {}).get("phase", "Pending") == "Pending" for p in pods)
        found = await self._cluster.get(self._ref)
        self._job = found or self._job
        return found is not None and (waits or not had_ended)

    async def _follow(self, pod: Manifest) -> None:
        """To the pod's end; a connection that broke before is opened again where it was."""
        ref, args = Ref("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"]), self._args
        recent: deque[str] = deque(maxlen=RECENT_LINES)
        while True:
            began, overlap = time.monotonic(), set(recent)
            try:
                async for line in _lines(args, self._cluster, pod, follow=True):
                    if line.raw in overlap:
                        continue
                    overlap.clear()
                    recent.append(line.raw)
                    self._show(line)
                    began = time.monotonic()
            except ClusterError as error:
                print(f"[{ref.name}] no log: {error}", file=sys.stderr)
                return
            found = await self._cluster.get(ref)
            if found is None or found.get("status", {}).get("phase") != "Running":
                return
            await asyncio.sleep(LOOK_SECONDS)
            args = argparse.Namespace(**{**vars(args), "tail": -1, "since": round(time.monotonic() - began) + 2})


class _Printer:
    """Prints lines as they were asked for; each pod has a colour on a terminal that has some."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._form = args.output
        self._console = output_console()
        self._pods: list[str] = []

    def __call__(self, line: LogLine) -> None:
        if self._form == "json":
            print(line.json(), flush=True)
            return
        for text in [line.raw] if self._form == "raw" else line.text():
            if self._console.is_terminal:
                self._console.print(Text.assemble((line.source, self._colour(line.pod)), " ", text), soft_wrap=True)
            else:
                print(line.source, text, flush=True)

    def _colour(self, pod: str) -> str:
        if pod not in self._pods:
            self._pods.append(pod)
        return COLOURS[self._pods.index(pod) % len(COLOURS)]
