"""Every value of the Helm chart with its default and its comment, from values.yaml itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from scripts.reference.markdown import MADE_OF, cell, code, table

FILE = Path(__file__).resolve().parents[2] / "helm" / "kubeautoml" / "values.yaml"

USUAL = {
    "affinity": "As of a pod.",
    "annotations": "Annotations of the object.",
    "commonAnnotations": "Likewise.",
    "enabled": "Whether it is made.",
    "extraEnv": "More environment, as a container has it.",
    "image": "Where it comes from.",
    "labels": "Labels of the object.",
    "limits": "What a container may use at most.",
    "maxUnavailable": "Pods that may be away for a drain of nodes.",
    "nodeSelector": "As of a pod.",
    "podAnnotations": "Annotations of the pods.",
    "podLabels": "Labels of the pods.",
    "priorityClassName": "As of a pod.",
    "pullPolicy": "When images are pulled.",
    "requests": "What the scheduler reserves.",
    "size": "Size of the volume.",
    "storageClassName": "Empty: the cluster's default.",
    "tolerations": "As of a pod.",
    "topologySpreadConstraints": "As of a pod.",
    "logLevel": "debug, info, warning or error.",
    "logFormat": "json or text.",
}
"""What keys mean that Helm charts call alike, where the file has no comment."""

LINE = re.compile(r"^(?P<indent> *)(?P<key>[\w.-]+):(?P<rest>.*)$")


@dataclass(frozen=True)
class Value:
    """One key. `default` is YAML, empty for a block of further keys."""

    path: str
    default: str
    words: str


def chart_values(text: str) -> Iterator[Value]:
    """The keys of a values file in its order, each with the comment above or behind it."""
    above: list[str] = []
    parents: list[tuple[int, str]] = []
    for line in text.splitlines():
        if line.strip().startswith("#"):
            above.append(line.strip().lstrip("# "))
            continue
        found = LINE.match(line)
        if found is None:
            above = []
            continue
        indent = len(found["indent"])
        parents = [p for p in parents if p[0] < indent]
        default, _, behind = found["rest"].partition(" #")
        path = ".".join([*(key for _, key in parents), found["key"]])
        words = " ".join([*above, behind.strip()]).strip()
        yield Value(path, default.strip(), _sentence(words) or USUAL.get(found["key"], ""))
        parents.append((indent, found["key"]))
        above = []


def _sentence(words: str) -> str:
    if not words:
        return ""
    return words + ("" if words.endswith((".", ")")) or ":" in words[-40:] else ".")


def values_page() -> str:
    """docs/reference/values.md."""
    found = list(chart_values(FILE.read_text(encoding="utf-8")))
    parts = [
        f"# Values of the chart\n\n{MADE_OF.format(source='`helm/kubeautoml/values.yaml`')} What is decided first:"
        " [operations](../operations.md#install). A value that is not here, or of another type, is refused with its name.\n"
    ]
    tops = dict.fromkeys(v.path.split(".")[0] for v in found)
    groups = {top: [v for v in found if v.path.split(".")[0] == top] for top in tops}
    single = [of_it[0] for of_it in groups.values() if len(of_it) == 1]
    parts.append(f"\n## In general\n\n{_rows(single)}")
    for top, (head, *below) in groups.items():
        if below:
            parts.append(f"\n## {top}\n\n" + (f"{cell(head.words)}\n\n" if head.words else "") + _rows(below))
    return "".join(parts)


def _rows(values: list[Value]) -> str:
    """A table; a block that says nothing by itself is left out."""
    shown = [v for v in values if v.default or v.words]
    rows = [(code(v.path), code(v.default) if v.default else "", cell(v.words)) for v in shown]
    return table(("value", "default", "what it is"), rows)


def defaults(text: str) -> dict[str, object]:
    """Default by path as YAML reads it, of keys that `chart_values` shows with one."""
    return {v.path: yaml.safe_load(v.default) for v in chart_values(text) if v.default}
