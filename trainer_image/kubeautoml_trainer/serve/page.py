"""The page at /: schema, a sample, a form. One self-contained document; it asks nothing from any other host."""

from __future__ import annotations

import html
import json
from functools import cache
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from kubeautoml.api.dataset import ColumnType
from kubeautoml_trainer.data.base import Column, Schema
from kubeautoml_trainer.serve.openapi import seen
from kubeautoml_trainer.serve.rows import example_value

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'"
)
"""The page may talk to its own server and to nobody else."""

MAX_CHOICES = 50
"""Categories with more levels get a text field; a longer menu is no help."""


def page(name: str, version: str, schema: Schema, card: dict[str, Any]) -> str:
    """HTML of the page of one model. `card` is the bundle's; its metrics are shown when it has them."""
    facts = {
        "target": schema.target,
        "classes": list(schema.classes),
        "metrics": card.get("metrics") or {},
        "columns": [_column_facts(c) for c in schema.features],
    }
    return _template().substitute(
        name=html.escape(name), version=html.escape(version), path=quote(name, safe=""), facts=_script_json(facts)
    )


@cache
def _template() -> Template:
    return Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))


def _column_facts(column: Column) -> dict[str, Any]:
    kinds = {
        ColumnType.NUMBER: "number",
        ColumnType.BOOLEAN: "boolean",
        ColumnType.DATETIME: "datetime",
        ColumnType.TEXT: "prose",
        ColumnType.IMAGE: "image",
    }
    has_menu = column.type is ColumnType.CATEGORY and 0 < len(column.levels) <= MAX_CHOICES
    return {
        "name": column.name,
        "type": column.type.value,
        "about": seen(column),
        "input": "choice" if has_menu else kinds.get(column.type, "text"),
        "choices": list(column.levels) if has_menu else [],
        "example": example_value(column),
    }


def _script_json(value: Any) -> str:
    """JSON that may stand inside a <script> element: no value can close it."""
    return json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
