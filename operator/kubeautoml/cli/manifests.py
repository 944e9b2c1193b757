"""Manifests in and objects out: what several verbs do with YAML files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from kubeautoml.api.errors import ManifestError, UsageError
from kubeautoml.api.form import parse_profile
from kubeautoml.api.objects import Manifest
from kubeautoml.api.profile import AutoMLProfile


def read_manifests(file: str) -> list[Manifest]:
    """All documents of a YAML or JSON file; "-" is standard input.

    Raises:
        UsageError: there is no such file.
        ManifestError: it is not YAML, or a document is not an object with kind and metadata.name.
    """
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{file} must be UTF-8 text; byte {error.start} is not") from error
    try:
        documents = [d for d in yaml.safe_load_all(text) if d is not None]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ManifestError(f"{file} is not YAML{where}: {getattr(error, 'problem', None) or error}") from error
    for document in documents:
        if not isinstance(document, dict) or "kind" not in document:
            raise ManifestError(f"{file} must hold Kubernetes objects with apiVersion, kind and metadata")
    return documents


def the_job(documents: list[Manifest], file: str) -> Manifest:
    """The one AutoMLJob among them."""
    jobs = [d for d in documents if d["kind"] == "AutoMLJob"]
    if len(jobs) != 1:
        kinds = ", ".join(d["kind"] for d in documents) or "nothing"
        raise ManifestError(f"{file} must hold exactly one AutoMLJob, it holds {kinds}")
    job = jobs[0]
    job.setdefault("metadata", {})
    if isinstance(job["metadata"], dict):
        job["metadata"].setdefault("namespace", "default")
    return job


def the_profile(documents: list[Manifest], job: Manifest) -> AutoMLProfile | None:
    """The AutoMLProfile that the job names, if the file holds it."""
    spec = job.get("spec")
    reference = spec.get("profileRef") if isinstance(spec, dict) else None
    wanted = reference.get("name") if isinstance(reference, dict) else "default"
    for document in documents:
        if document["kind"] == "AutoMLProfile" and (document.get("metadata") or {}).get("name") == wanted:
            return parse_profile(document)
    return None


class _Dumper(yaml.SafeDumper):
    """Indented lists, as kubectl prints them, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_yaml(manifest: Any) -> str:
    """YAML with the keys in their own order."""
    return yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def to_json(manifest: Any) -> str:
    """Indented JSON."""
    return json.dumps(manifest, indent=2, ensure_ascii=False)
