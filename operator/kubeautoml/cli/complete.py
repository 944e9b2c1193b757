"""What the shell offers on TAB: verbs, flags, and names of jobs, namespaces and contexts as they are in the cluster.

Shells ask through argcomplete, whose protocol `kubeautoml` itself answers (`kubeautoml completion SHELL` prints the shell's half).
kubectl asks an executable called kubectl_complete-automl, in the protocol of its own `__complete`, for `kubectl automl <TAB>`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
from collections.abc import Callable, Coroutine
from importlib import import_module
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kubeautoml.cluster.kube import KubeCluster

PATIENCE_SECONDS = 3.0
"""A cluster that answers later offers nothing: whoever typed waits."""

NO_SPACE, NO_FILES = 2, 4
"""Cobra's ShellCompDirectives: no blank after a folder, and no files of kubectl's own, since ours are there where they fit."""

Completer = Callable[..., list[str]]


def complete_with(action: argparse.Action, completer: Completer) -> None:
    """Let argcomplete ask it for an argument's values."""
    action.completer = completer  # type: ignore[attr-defined]


def job_names(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Jobs of the namespace."""

    async def ask(cluster: KubeCluster) -> list[str]:
        namespace = getattr(parsed_args, "namespace", None) or cluster.default_namespace
        return [m["metadata"]["name"] for m in await cluster.list_metadata("AutoMLJob", namespace)]

    return _asked(ask, parsed_args)


def namespaces(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Of the cluster, if we may list them."""

    async def ask(cluster: KubeCluster) -> list[str]:
        return [m["metadata"]["name"] for m in await cluster.list_metadata("Namespace")]

    return _asked(ask, parsed_args)


def contexts(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Of the kubeconfig."""
    from kubeautoml.api.errors import ClusterError
    from kubeautoml.cluster.connection import context_names

    try:
        return context_names(getattr(parsed_args, "kubeconfig", None))
    except ClusterError:
        return []


def _asked(ask: Callable[[KubeCluster], Coroutine[Any, Any, list[str]]], args: argparse.Namespace) -> list[str]:
    """What a cluster answers in time; nothing where it does not, or refuses."""
    from kubeautoml.api.errors import KubeAutoMLError
    from kubeautoml.cluster.kube import KubeCluster

    try:
        cluster = KubeCluster.from_kubeconfig(getattr(args, "kubeconfig", None), getattr(args, "context", None))
        return asyncio.run(_in_time(ask(cluster)))
    except (KubeAutoMLError, TimeoutError):
        return []


async def _in_time(work: Coroutine[Any, Any, list[str]]) -> list[str]:
    return await asyncio.wait_for(work, PATIENCE_SECONDS)


def whole_parser(words: list[str]) -> argparse.ArgumentParser:
    """All verbs in one parser; only the one among `words` is imported, and has its flags."""
    from kubeautoml.cli.connection import add_connection
    from kubeautoml.cli.main import VERBS

    parser = argparse.ArgumentParser(prog="kubeautoml", argument_default=argparse.SUPPRESS)
    parser.add_argument("-V", "--version", action="store_true", help="print the version")
    add_connection(parser)
    verbs = parser.add_subparsers(dest="verb", parser_class=argparse.ArgumentParser)
    for verb, (module, text) in VERBS.items():
        made = getattr(import_module(module), "parser", None) if module and verb in words else None
        if made is None:
            verbs.add_parser(verb, help=text)
        else:
            verbs.add_parser(verb, help=text, parents=[made()], conflict_handler="resolve", add_help=False)
    return parser


def answer_shell() -> None:
    """Answer argcomplete's shell function, and end the process."""
    import argcomplete

    words = os.environ.get("COMP_LINE", "").split()
    argcomplete.autocomplete(whole_parser(words), always_complete_options="long")


def candidates(words: list[str], word: str) -> list[str]:
    """What may stand in the place of `word` after `words`, each with a tab and what it means.

    argcomplete is asked as a shell would ask it, since that is its one door.
    """
    from argcomplete import io
    from argcomplete.finders import CompletionFinder

    class Finder(CompletionFinder):
        def _init_debug_stream(self) -> None:
            """A shell gives argcomplete file descriptor 9 for this; ours is somebody else's."""
            io.debug_stream = sys.stderr  # of now: the one of its import may be closed

    line = shlex.join(["kubeautoml", *words]) + f" {word}"
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_SHELL": "fish",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_DFS": "\t",
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    os.environ.update(asked)
    out = StringIO()
    try:
        Finder()(whole_parser(words), always_complete_options="long", exit_method=lambda code: None, output_stream=out)
    finally:
        for name in asked:
            del os.environ[name]
    return [line for line in out.getvalue().split("\n") if line]


def main() -> None:
    """`kubectl_complete-automl WORDS...`: the last word is the one to be completed."""
    *words, word = sys.argv[1:] or [""]
    from kubeautoml.cli.main import CLUSTER_VERBS, VERBS

    # flags are offered when somebody has begun one: in front of names they would only be noise; so would verbs of containers
    hidden = set(VERBS) - set(CLUSTER_VERBS) if not set(VERBS) & set(words) else set()
    offered = (c for c in candidates(words, word) if word.startswith("-") or not c.startswith("-"))
    found = [c for c in offered if c.split("\t")[0] not in hidden]
    is_open = len(found) == 1 and found[0].endswith(("/", "="))
    print("\n".join([*found, f":{NO_FILES + NO_SPACE * is_open}"]), flush=True)
    # threads that still wait for a cluster are not waited for
    os._exit(0)


if __name__ == "__main__":
    main()
