"""Every verb of the command with its arguments, from the parsers that read them."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scripts.reference.markdown import MADE_OF, cell, code, table

from kubeautoml.cli.main import VERBS, find_command, trainer_command

GROUPS = {
    "On any machine": ("run", "predict", "serve", "validate", "render"),
    "Against a cluster": (
        "list", "status", "leaderboard", "logs", "report", "suspend", "resume", "retry", "diff", "completion",
    ),
    "For the platform team": ("crds", "rbac"),
    "In containers": ("operator", "study-server", "worker", "finalize"),
}  # fmt: skip
"""The order of the page. A verb that is not here comes at its end."""


BY_ENVIRONMENT = ("worker", "finalize")
"""Verbs that take no arguments: the operator tells them all in their environment."""


class Caught(Exception):
    """Carries a parser, and what it has made of its arguments, out of the verb that has built it."""

    def __init__(self, parser: argparse.ArgumentParser, arguments: argparse.Namespace | None) -> None:
        super().__init__(parser.prog)
        self.parser = parser
        self.arguments = arguments


@contextmanager
def catching(*, parse: bool) -> Iterator[None]:
    """Let every parser raise Caught in place of going on; with `parse`, only once its arguments are read."""
    original = argparse.ArgumentParser.parse_args

    def caught(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> argparse.Namespace:
        raise Caught(self, original(self, args, namespace) if parse else None)

    argparse.ArgumentParser.parse_args = caught  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        argparse.ArgumentParser.parse_args = original  # type: ignore[method-assign]


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Verb and parser; `predict` has two."""
    for verb in VERBS:
        if verb in BY_ENVIRONMENT:
            yield (
                verb,
                argparse.ArgumentParser(
                    f"kubeautoml {verb}", description=VERBS[verb][1] + "; told by its environment."
                ),
            )
            continue
        yield verb, parser_of(verb)
        if verb == "predict":
            yield verb, parser_of(verb, ["--model", "URI"])


def parser_of(verb: str, argv: list[str] | None = None) -> argparse.ArgumentParser:
    """The parser of a verb, as its command builds it."""
    command = trainer_command(verb) if verb == "predict" and argv else find_command(verb)
    try:
        with catching(parse=False):
            command(argv or [])
    except Caught as caught:
        return caught.parser
    raise TypeError(f"kubeautoml {verb} reads its arguments without argparse")


def parsed(verb: str, argv: list[str]) -> argparse.Namespace:
    """What a verb's own parser makes of arguments.

    Raises:
        SystemExit: it refuses them, and has said why on standard error.
    """
    try:
        with catching(parse=True):
            find_command(verb)(argv)
    except Caught as caught:
        assert caught.arguments is not None
        return caught.arguments
    raise TypeError(f"kubeautoml {verb} reads its arguments without argparse")


def commands_page() -> str:
    """docs/reference/commands.md."""
    found: dict[str, list[argparse.ArgumentParser]] = {}
    for verb, parser in parsers():
        found.setdefault(verb, []).append(parser)
    named = {v for verbs in GROUPS.values() for v in verbs}
    groups = {**GROUPS, "Others": tuple(v for v in found if v not in named)}
    parts = [
        f"# Commands\n\n{MADE_OF.format(source='`kubeautoml.cli`')} `kubeautoml VERB --help` says the same.\n\n"
        "One program with two names: `kubeautoml VERB`, and `kubectl automl VERB` as a plug-in of kubectl. Exit codes: 0 done, 1 the job or"
        " the request failed, 2 misuse, 130 interrupted.\n"
    ]
    for title, verbs in groups.items():
        there = [v for v in verbs if v in found]
        if there:
            parts.append(f"\n## {title}\n")
            parts += [_section(verb, parser) for verb in there for parser in found[verb]]
    return "".join(parts)


def _section(verb: str, parser: argparse.ArgumentParser) -> str:
    heading = verb if parser.prog.endswith(verb) else parser.prog
    if verb == "predict":
        heading = f"predict, {'from a bundle' if '--model' in parser._option_string_actions else 'from an endpoint'}"
    actions = [a for a in parser._actions if not isinstance(a, argparse._HelpAction)]
    usage = " ".join([parser.prog, *(_usage(a) for a in actions)])
    text = f"\n### {heading}\n\n{_description(parser)}\n\n```text\n{usage}\n```\n"
    if actions:
        rows = [(code(_names(a)), _argument_default(a), cell(_help(parser, a))) for a in actions]
        text += "\n" + table(("argument", "default", "what it is"), rows)
    return text + _after(parser.epilog or "")


def _after(epilog: str) -> str:
    """What a help ends with: examples as what they are, a sentence as a sentence."""
    first, _, lines = epilog.partition("\n")
    if not first.startswith("Example"):
        return f"\n{cell(epilog)}\n" if epilog else ""
    return f"\n```bash\n{textwrap.dedent(lines).strip()}\n```\n"


def _description(parser: argparse.ArgumentParser) -> str:
    text = cell((parser.description or "").replace("%(prog)s", parser.prog))
    return text[:1].upper() + text[1:]


def _usage(action: argparse.Action) -> str:
    if not action.option_strings:
        name = _metavar(action)
        return {"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} [{name} ...]"}.get(str(action.nargs), name)
    flag = action.option_strings[0]
    text = flag if action.nargs == 0 else f"{flag} {_metavar(action)}"
    return text if action.required else f"[{text}]"


def _names(action: argparse.Action) -> str:
    if not action.option_strings:
        return _metavar(action)
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {_metavar(action)}"


def _metavar(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    if action.choices is not None:
        return "{" + ",".join(str(c) for c in action.choices) + "}"
    return action.dest.upper().replace("_", "-")


def _argument_default(action: argparse.Action) -> str:
    if action.required and action.option_strings:
        return "**required**"
    if action.default in (None, False, [], argparse.SUPPRESS) or action.nargs == 0:
        return ""
    return code(str(action.default))


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return (action.help or "") % {"prog": parser.prog, "default": action.default}
