"""`kubectl automl status NAME`: one job on one screen, redrawn until the job has ended."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from kubeautoml.api.errors import ClusterError
from kubeautoml.api.names import LABEL_JOB_UID
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.cli.connection import (
    add_connection,
    add_name,
    add_output,
    as_job,
    connect,
    find_job,
    print_objects,
    wait_for,
)
from kubeautoml.cli.job_view import Seen, activity, full_screen, has_ended, has_failed, live_screen
from kubeautoml.cli.parser import VerbParser
from kubeautoml.cli.view import counts, metric_of, output_console, short_number, state
from kubeautoml.cluster.kube import KubeCluster

LOOK_SECONDS = 2.0
"""Between two looks at the job; the operator writes counters no more often than every five seconds."""

REDRAWS_PER_SECOND = 2
"""Time runs on between two looks."""


def parser() -> VerbParser:
    made = VerbParser(
        "status",
        __doc__,
        "kubectl automl status churn",
        "kubectl automl status churn --once",
        "kubectl automl status churn --watch > progress.txt && echo trained",
    )
    made.description = (
        f"{made.description} On a terminal it is redrawn; elsewhere it is printed once, unless --watch is given: then every "
        "piece of news is a line. Watching ends with exit code 0 when there is a model as the job asks for, else with 1."
    )
    add_name(made)
    made.add_argument(
        "-w",
        "--watch",
        action=argparse.BooleanOptionalAction,
        help="until the job has ended; default: on a terminal only",
    )
    made.add_argument("--once", dest="watch", action="store_false", help="the same as --watch=false")
    made.set_defaults(watch=None)
    add_connection(made)
    add_output(made, "json", "yaml", "name", "wide")
    return made


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    if args.output in ("json", "yaml", "name"):
        print_objects([wait_for(find_job(args, connect(args)))], args.output, as_list=False)
        return 0
    watch = sys.stdout.isatty() if args.watch is None else args.watch
    seen = wait_for(_shown(args, connect(args), watch=watch))
    return 1 if watch and has_failed(seen.job) else 0


async def _shown(args: argparse.Namespace, cluster: KubeCluster, *, watch: bool) -> Seen:
    """Show the job, until it has ended or once; what was seen last."""
    console = output_console()
    manifest = await find_job(args, cluster)
    seen = await _look(manifest, cluster)
    looks = _looks(seen, Ref.of(manifest), cluster)
    if watch and console.is_terminal and not console.is_dumb_terminal:
        seen = await _drawn(looks, seen, console)
    elif watch:
        return await _told(looks, seen)
    for part in full_screen(seen, datetime.now(UTC), wide=args.output == "wide"):
        console.print(part, soft_wrap=isinstance(part, Text))
    return seen


async def _drawn(looks: AsyncIterator[Seen], seen: Seen, console: Console) -> Seen:
    """Redraw one place of the terminal until the last look, and leave it empty for what is printed then."""
    latest = [seen]
    how: dict[str, Any] = {"refresh_per_second": REDRAWS_PER_SECOND, "transient": True}
    with Live(console=console, get_renderable=lambda: live_screen(latest[0], datetime.now(UTC)), **how) as live:
        try:
            async for look in looks:
                latest[0] = look
        except asyncio.CancelledError:
            live.transient = False  # Ctrl-C leaves what was seen last
            raise
    return latest[0]


async def _told(looks: AsyncIterator[Seen], seen: Seen) -> Seen:
    """A line for every piece of news until the last look."""
    said = ""
    async for look in looks:
        seen, news = look, _news(look)
        if news != said:
            said = news
            print(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {news}", flush=True)
    return seen


async def _look(manifest: Manifest, cluster: KubeCluster) -> Seen:
    """The job with its pods, if we may see them."""
    meta = manifest["metadata"]
    try:
        pods = await cluster.list("Pod", meta["namespace"], {LABEL_JOB_UID: meta["uid"]})
    except ClusterError as error:
        return Seen(as_job(manifest), note=f"pods are not shown: {error}")
    pods.sort(key=lambda p: (p["metadata"].get("creationTimestamp", ""), p["metadata"]["name"]))
    return Seen(as_job(manifest), tuple(pods))


async def _looks(seen: Seen, ref: Ref, cluster: KubeCluster) -> AsyncIterator[Seen]:
    """One look after the other, until the job has ended. A server that does not answer is waited for.

    Raises:
        ClusterError: the job was deleted, or we may not see it any more.
    """
    yield seen
    while not has_ended(seen.job):
        # hundreds of pods are much to ask for
        await asyncio.sleep(LOOK_SECONDS * (1 + len(seen.pods) // 50))
        try:
            manifest = await cluster.get(ref)
        except ClusterError as error:
            if error.reason in ("Forbidden", "Unauthorized"):
                raise
            seen = Seen(seen.job, seen.pods, note=f"this is not new: {error}")
        else:
            if manifest is None:
                raise ClusterError(f"{ref} was deleted", reason="NotFound")
            seen = await _look(manifest, cluster)
        yield seen


def _news(seen: Seen) -> str:
    """What is worth a line where nothing can be redrawn."""
    job, best = seen.job, seen.job.status.best
    parts = [state(job), counts(job)]
    if best is not None:
        parts.append(f"best {metric_of(job)} {short_number(best.value)} ({best.family})")
    if doing := activity(job):
        parts.append(doing)
    return "; ".join([*parts, *([seen.note] if seen.note else [])])
