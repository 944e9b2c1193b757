"""`kubectl automl report NAME`: fetch a finished job's report with your own storage credentials, and open it."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path

from kubeautoml.api.errors import AccessDenied, ClusterError, ObjectNotFound, StorageError, UsageError
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.objects import Ref
from kubeautoml.cli.connection import add_connection, add_name, as_job, connect, get_job, wait_for
from kubeautoml.cli.job_view import has_ended
from kubeautoml.cli.parser import VerbParser
from kubeautoml.cluster.kube import KubeCluster
from kubeautoml.storage import open_store

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


def parser() -> VerbParser:
    made = VerbParser(
        "report",
        __doc__,
        "kubectl automl report churn",
        "kubectl automl report churn -o churn.html",
        "AWS_PROFILE=lake kubectl automl report churn --no-open",
    )
    made.description = (
        f"{made.description} Credentials are yours, as the AWS tools find them (AWS_PROFILE, AWS_ACCESS_KEY_ID and so on); the "
        "storage's address is that of AWS_ENDPOINT_URL, else of the job's profile."
    )
    add_name(made)
    made.add_argument(
        "-o", "-O", "--output", metavar="FILE", help="write it there and open nothing; - for standard output"
    )
    made.add_argument("--no-open", action="store_true", help="write NAME-report.html into this folder and open nothing")
    add_connection(made)
    return made


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    cluster = connect(args)
    job = as_job(get_job(args, cluster))
    uri = job.status.artifacts.report_uri if job.status.artifacts else None
    if uri is None:
        raise ObjectNotFound(_no_report(job))
    page = _fetched(uri, job, cluster)
    if args.output == "-":
        sys.stdout.buffer.write(page)
        sys.stdout.buffer.flush()
        return 0
    opens = not (args.no_open or args.output)
    target = Path(args.output or (_cached(job) if opens else f"{args.name}-report.html"))
    try:
        target.write_bytes(page)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}") from error
    if opens and _open(target):
        print(f"{target} opened in the browser; from {uri}")
    else:
        print(f"{target} written from {uri}")
    return 0


def _no_report(job: AutoMLJob) -> str:
    name = job.metadata.name
    if has_ended(job):
        return f"AutoMLJob '{name}' has ended without a model, so it has no report; see kubectl automl status {name}"
    return f"AutoMLJob '{name}' has no report yet; it is written when the search has ended"


def _fetched(uri: str, job: AutoMLJob, cluster: KubeCluster) -> bytes:
    """The page.

    Raises:
        StorageError: it cannot be had; says with which credentials it could.
    """
    _point_to_storage(uri, job, cluster)
    try:
        return open_store(uri).read(uri)
    except AccessDenied as error:
        secret, namespace = job.spec.output.secret_ref, job.metadata.namespace
        keys = f"; the job's are in the secret '{secret.name}' of namespace '{namespace}'" if secret else ""
        raise AccessDenied(
            f"{uri} needs credentials of yours that may read it: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            f"{keys} ({error})"
        ) from error
    except ObjectNotFound as error:
        if not uri.startswith("file://"):
            raise
        raise ObjectNotFound(
            f"{uri} is on a volume of the cluster's pods, which this machine does not have; read it where the volume is mounted"
        ) from error
    except StorageError as error:
        address = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)
        if address is None or uri.startswith("file://"):
            raise
        raise StorageError(
            f"{error}; {address} may only be known inside the cluster: set AWS_ENDPOINT_URL to how you reach it, or kubectl port-forward",
            reason=error.reason,
        ) from error


def _point_to_storage(uri: str, job: AutoMLJob, cluster: KubeCluster) -> None:
    """Say where the object storage is, unless the caller has: as the pods are told by the job's profile."""
    if not uri.startswith("s3://") or any(os.environ.get(name) for name in ENDPOINTS):
        return
    try:
        profile = wait_for(cluster.get(Ref("AutoMLProfile", "", job.spec.profile_ref.name)))
    except ClusterError:
        return  # whoever may not see profiles says it by the environment
    storage = ((profile or {}).get("spec") or {}).get("objectStorage") or {}
    if endpoint := storage.get("endpointUrl"):
        os.environ["AWS_ENDPOINT_URL"] = str(endpoint)


def _cached(job: AutoMLJob) -> Path:
    """A file of the user's own, where the next report of this job takes the place of this one."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    folder = home / "kubeautoml" / "reports"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror}; choose a file with -o") from error
    return folder / f"{job.metadata.namespace}-{job.metadata.name}.html"


def _open(page: Path) -> bool:
    """Show it, where there is a browser to show it in; one for terminals would fill a script's output."""
    has_screen = bool(os.environ.get("BROWSER") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if not (has_screen or sys.platform in ("darwin", "win32")):
        return False
    try:
        return webbrowser.open(page.resolve().as_uri())
    except webbrowser.Error:
        return False
