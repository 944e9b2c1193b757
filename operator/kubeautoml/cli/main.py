"""`kubeautoml VERB ...`, also installed as `kubectl-automl` so that `kubectl automl VERB ...` works.

A verb is a module with `main(argv) -> int`, imported only when called. The trainer's verbs (worker, finalize, serve,
predict) are found by entry point, so this package never imports the trainer and a missing extra is one line.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from kubeautoml import __version__
from kubeautoml.api.errors import KubeAutoMLError, UsageError

Command = Callable[[list[str]], int]

VERBS: dict[str, tuple[str, str]] = {
    "run": ("kubeautoml.cli.run", "run a manifest on this machine, without a cluster"),
    "predict": ("kubeautoml.cli.predict", "predictions: from a bundle (--model URI) or from an endpoint (NAME)"),
    "serve": ("", "serve a bundle over HTTP"),
    "validate": ("kubeautoml.cli.validate", "check a manifest with the rules of the cluster"),
    "render": ("kubeautoml.cli.render", "print every object that the operator would apply"),
    "list": ("kubeautoml.cli.list_jobs", "list jobs in a cluster"),
    "status": ("kubeautoml.cli.status", "show one job in a cluster"),
    "leaderboard": ("kubeautoml.cli.leaderboard", "show a job's best trials"),
    "logs": ("kubeautoml.cli.logs", "print the logs of a job's pods"),
    "report": ("kubeautoml.cli.report", "fetch a job's report"),
    "suspend": ("kubeautoml.cli.suspend", "stop a job's pods, keep its trials"),
    "resume": ("kubeautoml.cli.resume", "go on with a suspended job"),
    "retry": ("kubeautoml.cli.retry", "put a failed job back to work"),
    "diff": ("kubeautoml.cli.diff", "show what applying a manifest again would change"),
    "completion": ("kubeautoml.cli.completion", "print what a shell needs to complete this command"),
    "crds": ("kubeautoml.cli.crds", "print the CustomResourceDefinitions, or apply them to a cluster"),
    "rbac": ("kubeautoml.cli.rbac", "print the rights that operator and study server need"),
    "certificate": ("kubeautoml.cli.certificate", "make the study server's TLS secret (a Job of the install runs it)"),
    "probe": ("kubeautoml.cli.probe", "ask servers whether they are ready (helm test runs it)"),
    "operator": ("kubeautoml.controller.main", "run the operator (container entry point)"),
    "study-server": ("kubeautoml.study.server", "run the study server (container entry point)"),
    "worker": ("", "run trials (container entry point)"),
    "finalize": ("", "make the model (container entry point)"),
}

CLUSTER_VERBS = ("list", "status", "leaderboard", "logs", "report", "predict", "suspend", "resume", "retry", "diff")
"""Verbs that `kubectl automl` is for: each module has its `parser()`."""

LOCAL_VERBS = ("run", "validate", "render", "serve", "completion")

EXTRAS = {"serve": "serve", "worker": "trainer", "finalize": "trainer", "predict": "serve"}
"""Which extra brings a verb that lives in the trainer."""


def usage() -> str:
    """What `kubeautoml --help` prints; `kubectl automl --help` calls the program so, and leaves out what is for containers."""
    is_plugin = Path(sys.argv[0]).name.startswith("kubectl-")
    program = "kubectl automl" if is_plugin else "kubeautoml"
    groups = {
        "In a cluster": CLUSTER_VERBS,
        "On this machine": LOCAL_VERBS,
        "Installing and running KubeAutoML": tuple(v for v in VERBS if v not in (*CLUSTER_VERBS, *LOCAL_VERBS)),
    }
    width = max(len(v) for v in VERBS)
    lines = []
    for title, verbs in list(groups.items())[: 1 if is_plugin else None]:
        lines += ["", f"{title}:", *(f"  {verb:<{width}}  {VERBS[verb][1]}" for verb in verbs)]
    return "\n".join(
        [
            f"usage: {program} VERB [options]      ({program} VERB --help for one verb, with examples)",
            "",
            "Train the best model for a data set and serve it, from one AutoMLJob manifest.",
            *lines,
            *(["", "All other verbs: kubeautoml --help"] if is_plugin else []),
        ]
    )


def trainer_command(verb: str) -> Command:
    """The trainer's command of that name.

    Raises:
        UsageError: the extra that brings it is not installed.
    """
    extra = EXTRAS[verb]
    missing = UsageError(f"'{verb}' needs the {extra} extra; install it with: pip install 'kubeautoml[{extra}]'")
    found = [e for e in entry_points(group="kubeautoml.commands") if e.name == verb]
    if not found:
        raise missing
    try:
        command: Command = found[0].load()
    except ModuleNotFoundError as error:
        raise missing from error
    return command


def find_command(verb: str) -> Command:
    """The verb's `main(argv)`."""
    module, _ = VERBS[verb]
    if not module:
        return trainer_command(verb)
    try:
        command: Command = import_module(module).main
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kubeautoml"):
            raise
        extra = "operator" if verb in ("operator", "study-server", "certificate", "probe") else "cli"
        raise UsageError(
            f"'{verb}' needs the package {error.name}; install it with: pip install 'kubeautoml[{extra}]'"
        ) from error
    return command


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Exit codes: 0 done, 1 the job or request failed, 2 misuse, 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if "_ARGCOMPLETE" in os.environ:
        from kubeautoml.cli.complete import answer_shell

        answer_shell()
    try:
        try:
            return _run(argv)
        finally:
            # what is still in the buffer may find that nobody reads it any more, or that there is no room for it
            sys.stdout.flush()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KubeAutoMLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `kubeautoml list | head` closed our output; nothing is wrong, and Python must not complain at exit.
        _write_nowhere()
        return 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print("error: there is no room for the output", file=sys.stderr)
        _write_nowhere()
        return 1


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] in ("-V", "--version", "version"):
        print(f"kubeautoml {__version__}")
        return 0
    flags, rest = _leading_flags(argv)
    if not rest:
        raise UsageError("a verb must follow the flags; see kubeautoml --help")
    if rest[0] not in VERBS:
        raise UsageError(f"'{rest[0]}' is not a verb of kubeautoml{_nearest(rest[0])}; see kubeautoml --help")
    return find_command(rest[0])([*flags, *rest[1:]])


def _write_nowhere() -> None:
    """Let what is still to be written to standard output vanish."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _leading_flags(argv: list[str]) -> tuple[list[str], list[str]]:
    """Flags of the connection that stand before the verb, as kubectl takes them before its own, and what follows."""
    flags: list[str] = []
    while argv and argv[0].startswith("-"):
        name, given, _ = argv[0].partition("=")
        if name not in _CONNECTION_FLAGS:
            raise UsageError(f"{name} must follow the verb, as in: kubectl automl list {name}; see kubeautoml --help")
        count = 1 if given else 2
        flags, argv = [*flags, *argv[:count]], argv[count:]
    return flags, argv


_CONNECTION_FLAGS = ("-n", "--namespace", "--context", "--kubeconfig")


def _nearest(verb: str) -> str:
    from rapidfuzz import process

    match = process.extractOne(verb, list(VERBS), score_cutoff=60)
    return f"; did you mean '{match[0]}'?" if match else ""


if __name__ == "__main__":
    sys.exit(main())
