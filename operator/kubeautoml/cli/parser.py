"""The argument parser of every verb: kubectl's spelling of flags, a help with an example, one line for what does not fit."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from kubeautoml.api.errors import UsageError


class VerbParser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError instead of ending the process, and takes `--flag=true` and `--flag=false`."""

    def __init__(
        self, verb: str, words: str | None, *examples: str, program: str = "kubectl automl", **how: Any
    ) -> None:
        """
        Args:
            words: what the verb does; of a module's docstring the part after `...`: is shown.
            examples: commands as a person types them, one or more lines each.
        """
        shown = (words or "").partition("`: ")[2] or words or ""
        shown = shown[:1].upper() + shown[1:]
        title = "Example:" if len(examples) == 1 else "Examples:"
        super().__init__(
            prog=f"{program} {verb}".strip(),
            description=" ".join(shown.split()),
            epilog="\n".join([title, *(f"  {line}" for e in examples for line in e.splitlines())])
            if examples
            else None,
            formatter_class=_Formatter,
            allow_abbrev=False,
            **how,
        )

    def error(self, message: str) -> NoReturn:
        """One line.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{message}; see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, with kubectl's spelling of switches."""
        return super().parse_known_args(self._plain(args or []), namespace)

    def _plain(self, args: Sequence[str]) -> list[str]:
        plain: list[str] = []
        for number, arg in enumerate(args):
            if arg == "--":
                return [*plain, *args[number:]]
            name, _, value = arg.partition("=")
            action = self._option_string_actions.get(name) if arg.startswith("--") else None
            if action is None or action.nargs != 0 or value not in ("true", "false"):
                plain.append(arg)
            elif value == "true":
                plain.append(name)
            elif (no := f"--no-{name[2:]}") in self._option_string_actions:
                plain.append(no)
        return plain


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Descriptions are filled, examples are left as they are."""

    def __init__(self, prog: str, **how: Any) -> None:
        super().__init__(prog, max_help_position=32, **how)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("Example"):
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)
