"""Environment variables, from the enumerations by which the program reads them."""

from __future__ import annotations

import ast
import inspect
import textwrap
from enum import StrEnum

from scripts.reference.markdown import MADE_OF, cell, table

from kubeautoml.api.names import Env
from kubeautoml.controller.settings import OperatorEnv


def member_docs(kind: type[StrEnum]) -> dict[str, str]:
    """The sentence below each member, by the variable's name; "" where there is none."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = dict.fromkeys((m.value for m in kind), "")
    for node, following in zip(body.body, [*body.body[1:], ast.Pass()], strict=True):
        is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and is_text:
            docs[kind[node.targets[0].id].value] = " ".join(str(following.value.value).split())  # type: ignore[attr-defined]
    return docs


def environment_page() -> str:
    """docs/reference/environment.md."""
    parts = [f"# Environment variables\n\n{MADE_OF.format(source='`kubeautoml.controller.settings`')}\n"]
    parts.append(
        "\n## Of the operator\n\nSet in its Deployment; the chart does so from its values. What is left out has the default.\n\n"
        + _rows(OperatorEnv)
    )
    parts.append(
        "\n## Of a job's pods\n\nSet by the operator in workers, finalizers and servers. Nobody needs to set them, but whoever starts"
        " a worker or a server by hand does.\n\n" + _rows(Env)
    )
    return "".join(parts)


def _rows(kind: type[StrEnum]) -> str:
    return table(("variable", "what it is"), [(f"`{name}`", cell(text)) for name, text in member_docs(kind).items()])
