"""`kubeautoml run -f job.yaml`: the operator's own reconcile over this machine as the cluster, with a live view.

Everything of a run is under --workdir: the study, the logs, and the object with its status. The same manifest over the
same data is the same job, so running it again goes on with its study; after Ctrl-C, a crash, or with a larger budget.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kubeautoml.api.check import check_job
from kubeautoml.api.conditions import BudgetEnd, ConditionStatus, find_condition
from kubeautoml.api.errors import StorageError, UsageError
from kubeautoml.api.form import parse_job, problems
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.metrics import METRICS
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.api.pod import PodJob
from kubeautoml.api.profile import AutoMLProfile
from kubeautoml.cli.buckets import in_folders, on_this_machine
from kubeautoml.cli.manifests import read_manifests, the_job, the_profile, to_json, to_yaml
from kubeautoml.cli.parser import VerbParser
from kubeautoml.cli.screen import Screen
from kubeautoml.cluster.local import LocalCluster
from kubeautoml.controller.drive import Driver, has_ended, is_settled
from kubeautoml.controller.settings import OperatorSettings
from kubeautoml.controller.studies import Studies
from kubeautoml.plan.base import Settings
from kubeautoml.storage import open_store


def parser() -> VerbParser:
    first = (__doc__ or "").splitlines()[0]
    made = VerbParser(
        "run", first, "kubeautoml run -f churn.yaml", "kubeautoml run -f churn.yaml --serve", program="kubeautoml"
    )
    made.add_argument("-f", "--filename", required=True, help="manifest, or - for standard input")
    made.add_argument(
        "--workdir", default=".kubeautoml", metavar="DIR", help="study, logs, status (default .kubeautoml)"
    )
    made.add_argument(
        "--buckets", metavar="DIR", help="s3://bucket/key means DIR/bucket/key; secrets are not needed then"
    )
    made.add_argument("--serve", action="store_true", help="serve the model when it is done, until Ctrl-C")
    made.add_argument("--port", type=int, default=8080, help="port for --serve (default 8080)")
    made.add_argument("-o", "--output", choices=["json", "yaml"], help="print the finished object on stdout")
    return made


def main(argv: list[str]) -> int:
    """Exit 0: the model is there; 1: the job failed or was refused; 2: misuse; 130: left at once by a second Ctrl-C."""
    args = parser().parse_args(argv)
    documents = [on_this_machine(d) for d in read_manifests(args.filename)]
    manifest = the_job(documents, args.filename)
    if args.buckets:
        manifest = in_folders(manifest, Path(args.buckets))
    if args.serve and isinstance(manifest.get("spec"), dict):
        manifest["spec"].setdefault("serving", {})
    if not _is_valid(manifest, the_profile(documents, manifest), args.filename):
        return 1
    run = LocalRun(parse_job(manifest), documents, Path(args.workdir), serve_port=args.port if args.serve else None)
    job = asyncio.run(run.to_the_end())
    if job is None:
        return 130
    if args.output:
        sys.stdout.write(to_json(job.to_manifest()) + "\n" if args.output == "json" else to_yaml(job.to_manifest()))
    return 0 if _succeeded(job) and (not args.serve or _is_ready(job)) else 1


def _is_valid(manifest: Manifest, profile: AutoMLProfile | None, file: str) -> bool:
    found = list(problems(manifest)) or list(check_job(parse_job(manifest), profile))
    for problem in found:
        print(f"{file}: {problem.message}", file=sys.stderr)
    return not found


def _succeeded(job: AutoMLJob) -> bool:
    return _is_true(job, "Succeeded")


def _is_ready(job: AutoMLJob) -> bool:
    return _is_true(job, "Ready")


def _is_true(job: AutoMLJob, kind: str) -> bool:
    condition = find_condition(job.status.conditions, kind)
    return condition is not None and condition.status is ConditionStatus.TRUE


class LocalRun:
    """One job on this machine, from what an earlier run left to its end."""

    def __init__(self, job: AutoMLJob, documents: list[Manifest], workdir: Path, *, serve_port: int | None) -> None:
        self._workdir = workdir.resolve()
        self._job = _with_uid(job)
        self._ref = Ref("AutoMLJob", job.metadata.namespace, job.metadata.name)
        self._others = [d for d in documents if d["kind"] == "AutoMLProfile"]
        self._serve_port = serve_port
        meta = self._job.metadata
        self._state_file = self._workdir / "jobs" / meta.namespace / meta.name / f"{meta.uid}.json"
        self._study_url = f"journal://{self._workdir / 'study.journal'}"
        self._screen = Screen(self._workdir / "logs")
        self._stops = 0

    async def to_the_end(self) -> AutoMLJob | None:
        """The finished object; None when somebody would not wait for it."""
        with _alone(self._state_file.with_suffix(".lock")):
            earlier = self._earlier()
            if earlier is None or not _is_done(earlier, self._job):
                return await self._search(earlier, reopen=True)
            if self._serve_port is not None:
                return await self._search(earlier, reopen=False)
            self._screen.finished_before(earlier)
            return earlier

    async def _search(self, earlier: AutoMLJob | None, *, reopen: bool) -> AutoMLJob | None:
        studies = Studies()
        # a pod's log is read in an editor: keep colours of libraries out of it
        environment = {**os.environ, "NO_COLOR": "1"}
        try:
            if reopen:
                await self._reopen(studies, earlier)
            async with LocalCluster(
                self._workdir,
                serve=self._serve_port is not None,
                serve_port=self._serve_port or 0,
                environment=environment,
                max_grace_seconds=5.0,
            ) as cluster:
                return await self._drive(cluster, studies, earlier)
        finally:
            studies.close()

    async def _drive(self, cluster: LocalCluster, studies: Studies, earlier: AutoMLJob | None) -> AutoMLJob | None:
        for other in self._others:
            await cluster.put(other)
        await cluster.put({**self._job.to_manifest(), "status": _status_to_go_on_with(earlier)})
        serve = self._serve_port is not None
        local = Settings(study_url=self._study_url, serving_enabled=serve, machine_cores=_cores(), **_LOCAL)
        settings = OperatorSettings(plan=local)
        driver = Driver(self._ref, cluster, studies, settings, on_status=self._on_status)
        running = asyncio.create_task(driver.run(is_settled if serve else has_ended))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, driver, running)
        try:
            with self._screen:
                job = await running
            self._screen.ended(job)
            if serve and _is_ready(job):
                await self._serve(cluster, job)
            elif serve and _succeeded(job):
                self._screen.not_served(job)
            return job
        except asyncio.CancelledError:
            if self._stops < 2:
                raise
            return None

    async def _serve(self, cluster: LocalCluster, job: AutoMLJob) -> None:
        """Keep the server running until Ctrl-C."""
        from kubeautoml.api.names import server_name

        deployment = Ref("Deployment", job.metadata.namespace, server_name(job.metadata.name))
        self._screen.say(f"serving at {cluster.endpoint(deployment)} until Ctrl-C")
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        await stopped.wait()

    def _stop(self, driver: Driver, running: asyncio.Task[AutoMLJob]) -> None:
        """First Ctrl-C: end the search, make the model. Second: leave at once; finished trials stay in the study."""
        self._stops += 1
        if self._stops == 1:
            self._screen.say("stopping: the best model so far is being made; Ctrl-C again leaves at once")
            driver.request_stop()
        else:
            running.cancel()

    def _on_status(self, job: AutoMLJob) -> None:
        partial = self._state_file.with_suffix(".partial")
        partial.write_text(json.dumps(job.to_manifest()), encoding="utf-8")
        partial.replace(self._state_file)
        self._screen.show(job)

    def _earlier(self) -> AutoMLJob | None:
        """The object as an earlier run left it."""
        try:
            return AutoMLJob.model_validate_json(self._state_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    async def _reopen(self, studies: Studies, earlier: AutoMLJob | None) -> None:
        """Take back what an earlier run decided about the end, so that the search goes on; trials stay."""
        if earlier is None:
            return
        job = PodJob.of(self._job)
        await studies.reopen(self._study_url, job.study_name, METRICS[job.metric].direction)
        done = earlier.status.trials.completed
        self._screen.say(f"going on with the study of an earlier run ({done} completed trials)")


_LOCAL: dict[str, Any] = {
    "status_interval_seconds": 1.0,
    "status_trials": 1,
    "keeps_all_trials": True,
    "queueing_enabled": False,
}
"""On one machine nobody else pays for status updates, a person is watching, a larger budget goes on with all trials, and no
Kueue admits anything."""


def _cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@contextmanager
def _alone(lock_file: Path) -> Iterator[None]:
    """Let one command at a time work on a job; the kernel drops the lock also of a killed one.

    Raises:
        UsageError: another command works on it, or the folder cannot be written.
    """
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_file.open("a")
    except OSError as error:
        raise UsageError(f"--workdir: {lock_file.parent} cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"another kubeautoml run works on this job in {lock_file.parents[3]}; wait for it, or use another --workdir"
            ) from error
        yield


def _with_uid(job: AutoMLJob) -> AutoMLJob:
    """A uid that follows from the immutable spec and the versions of the data: other data is another job."""
    pod_job = PodJob.of(job).model_dump_json()
    versions = []
    for source in (job.spec.dataset.train, job.spec.dataset.test):
        if source is not None:
            try:
                versions += [(o.uri, o.size_bytes, o.version) for o in open_store(source.uri).find(source.uri)]
            except StorageError:  # the worker will say it, in a condition
                versions.append((source.uri, 0, ""))
    uid = str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([pod_job, versions])))
    return job.model_copy(update={"metadata": job.metadata.model_copy(update={"uid": uid})})


def _is_done(earlier: AutoMLJob, job: AutoMLJob) -> bool:
    """Whether an earlier run reached its own end with this very spec, and its model is still there."""
    same = earlier.spec.model_copy(update={"serving": job.spec.serving}) == job.spec
    if not _succeeded(earlier) or not same or earlier.status.model is None:
        return False
    if earlier.status.budget_used.ended_by == BudgetEnd.INTERRUPTED:
        return False
    uri = earlier.status.model.uri
    try:
        return open_store(uri).exists(f"{uri}/bundle.json")
    except StorageError:
        return False


def _status_to_go_on_with(earlier: AutoMLJob | None) -> dict[str, Any]:
    """Time that was used counts against the budget; all else is observed anew. A failed job starts afresh."""
    if earlier is None or earlier.status.start_time is None or not _was_searching(earlier):
        return {}
    used = timedelta(seconds=earlier.status.budget_used.duration_seconds)
    return {"startTime": (datetime.now(UTC) - used).isoformat().replace("+00:00", "Z")}


def _was_searching(earlier: AutoMLJob) -> bool:
    condition = find_condition(earlier.status.conditions, "Succeeded")
    return condition is None or condition.status is not ConditionStatus.FALSE
