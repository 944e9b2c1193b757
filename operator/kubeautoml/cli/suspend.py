"""`kubectl automl suspend NAME`: stop a job's pods and keep its finished trials; `resume` goes on from there."""

from __future__ import annotations

from kubeautoml.api.objects import Ref
from kubeautoml.cli.connection import JOB_WORD, add_connection, add_name, as_job, connect, get_job, wait_for
from kubeautoml.cli.parser import VerbParser


def parser() -> VerbParser:
    return switch_parser("suspend", __doc__)


def main(argv: list[str]) -> int:
    return set_suspend(parser(), argv, suspend=True)


def switch_parser(verb: str, words: str | None) -> VerbParser:
    """Of suspend and resume."""
    made = VerbParser(verb, words, f"kubectl automl {verb} churn")
    add_name(made)
    add_connection(made)
    return made


def set_suspend(parser: VerbParser, argv: list[str], *, suspend: bool) -> int:
    """Patch spec.suspend, which is all that either verb does."""
    args = parser.parse_args(argv)
    cluster = connect(args)
    job = get_job(args, cluster)
    changed = bool(job["spec"].get("suspend", False)) != suspend
    if changed:
        wait_for(cluster.merge_patch(Ref.of(job), {"spec": {"suspend": suspend}}))
    done = "suspended" if suspend else "resumed"
    has_ended = as_job(job).status.completion_time is not None
    note = " (no change)" if not changed else " (it has ended, so this changes nothing)" if has_ended else ""
    print(f"{JOB_WORD}/{args.name} {done}{note}")
    return 0
