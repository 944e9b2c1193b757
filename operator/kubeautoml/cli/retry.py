"""`kubectl automl retry NAME`: put a job that has failed back to work, keeping what it reached."""

from __future__ import annotations

from datetime import UTC, datetime

from kubeautoml.api.conditions import ConditionStatus, find_condition
from kubeautoml.api.errors import ClusterError
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.names import ANNOTATION_RETRY
from kubeautoml.api.objects import Ref
from kubeautoml.cli.connection import JOB_WORD, add_connection, add_name, as_job, connect, get_job, wait_for
from kubeautoml.cli.parser import VerbParser
from kubeautoml.cli.view import state


def parser() -> VerbParser:
    made = VerbParser("retry", __doc__, "kubectl automl retry churn && kubectl automl status churn")
    made.description = (
        f"{made.description} Mend first what the job failed of, such as a secret. Where no trial had completed, the search begins "
        "anew with all of its budgets; where some had, it goes on with what was left of them; where the search was over, only the "
        f"model is made again. It sets the annotation {ANNOTATION_RETRY}, which any other value starts again."
    )
    add_name(made)
    add_connection(made)
    return made


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    cluster = connect(args)
    manifest = get_job(args, cluster)
    why_not = refusal(as_job(manifest))
    if why_not:
        raise ClusterError(why_not, reason="NotFailed")
    request = datetime.now(UTC).isoformat(timespec="milliseconds")
    wait_for(cluster.merge_patch(Ref.of(manifest), {"metadata": {"annotations": {ANNOTATION_RETRY: request}}}))
    print(f"{JOB_WORD}/{args.name} retried" + (" (it is suspended)" if manifest["spec"].get("suspend") else ""))
    return 0


def refusal(job: AutoMLJob) -> str:
    """Why a job cannot be tried again, and what to do instead; empty when it can."""
    name = job.metadata.name
    accepted, succeeded = (find_condition(job.status.conditions, kind) for kind in ("Accepted", "Succeeded"))
    if succeeded is not None and succeeded.status is ConditionStatus.FALSE:
        return ""
    if succeeded is not None and succeeded.status is ConditionStatus.TRUE:
        return (
            f"AutoMLJob '{name}' has its model, so there is nothing to try again; for a better one apply another job "
            f"with spec.search.warmStartFrom: [{{name: {name}}}], which begins with the best trials of this one"
        )
    if accepted is not None and accepted.status is ConditionStatus.FALSE:
        return f"AutoMLJob '{name}' was not accepted ({accepted.message}); edit the manifest, and it begins by itself"
    if job.spec.suspend:
        return f"AutoMLJob '{name}' is suspended and has not failed; go on with: kubectl automl resume {name}"
    return f"AutoMLJob '{name}' has not failed ({state(job)}); see kubectl automl status {name}"
