"""Model to folder: everything that prediction needs, and the list that vouches for it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kubeautoml import __version__
from kubeautoml_trainer.bundle.files import write_index
from kubeautoml_trainer.bundle.model import SCHEMA, Model
from kubeautoml_trainer.data.schema import schema_to_json

LIBRARIES = ("numpy", "pandas", "scikit-learn", "lightgbm", "catboost", "safetensors")


def write_bundle(folder: Path, model: Model) -> str:
    """Write a model into an empty folder; returns the SHA-256 of `bundle.json`. The same model gives the same digest."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SCHEMA).write_text(schema_to_json(model.schema), encoding="utf-8")
    members: list[dict[str, Any]] = []
    for number, member in enumerate(model.members):
        names = [f"members/{number}/{fold}" for fold in range(len(member.pipelines))]
        for name, pipeline in zip(names, member.pipelines, strict=True):
            pipeline.save(folder / name)
        parameters = dict(member.pipelines[0].parameters)
        members.append({"weight": member.weight, "family": member.family, "parameters": parameters, "pipelines": names})
    body = {
        "codeVersion": __version__,
        "libraries": {"python": platform.python_version(), **_versions()},
        "task": model.task.type.value,
        "members": members,
        "card": model.card,
    }
    return write_index(folder, body)


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
