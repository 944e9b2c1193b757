"""Writes a bundle into a folder on disk; the finalizer uploads it from there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kubeautoml import __version__
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.bundle.manifest import (
    BUNDLE,
    CARD,
    FORMAT,
    Lineage,
    Manifest,
    Member,
    digest,
    file_facts,
    manifest_bytes,
)
from kubeautoml_trainer.data.base import Schema
from kubeautoml_trainer.data.schema import schema_to_json
from kubeautoml_trainer.models.base import Pipeline
from kubeautoml_trainer.models.space import Parameters

# What a prediction's last digits may depend on.
_LIBRARIES = ("numpy", "pandas", "scikit-learn", "lightgbm", "catboost", "xgboost-cpu", "safetensors", "torch")


@dataclass(frozen=True)
class MemberFiles:
    """One trial on its way into a bundle: its pipelines are in `folder`/0, /1, ..., one a fold."""

    trial: int
    family: str
    parameters: Parameters
    weight: float
    folder: Path


def save_member(pipelines: Sequence[Pipeline], folder: Path, *, trial: int = 0, weight: float = 1.0) -> MemberFiles:
    """Save fitted pipelines, a fold each, so that they can go into a bundle."""
    for fold, pipeline in enumerate(pipelines):
        (folder / str(fold)).mkdir(parents=True)
        pipeline.save(folder / str(fold))
    return MemberFiles(trial, pipelines[0].family, pipelines[0].parameters, weight, folder)


def write_bundle(
    folder: Path,
    *,
    schema: Schema,
    task_type: TaskType,
    metric: str,
    members: Sequence[MemberFiles],
    metrics: Mapping[str, float],
    lineage: Lineage,
    card: Mapping[str, Any],
    created_at: str,
) -> str:
    """Write a bundle; `bundle.json` last.

    Args:
        folder: absent or empty.
        metrics: hold-out metrics; those that are not defined (NaN) must be left out.
        members: their weights sum to 1.

    Returns:
        The digest of bundle.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / CARD, dict(card))
    described = [_copy_member(member, folder / "members" / str(i)) for i, member in enumerate(members)]
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    manifest = Manifest(
        format=FORMAT,
        created_at=created_at,
        code_version=__version__,
        libraries=_versions(),
        task_type=task_type,
        metric=metric,
        schema_=json.loads(schema_to_json(schema)),
        members=tuple(described),
        metrics=dict(metrics),
        lineage=lineage,
        files={name: file_facts(folder / name) for name in names},
    )
    data = manifest_bytes(manifest)
    (folder / BUNDLE).write_bytes(data)
    return digest(data)


def bundle_size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _copy_member(member: MemberFiles, target: Path) -> Member:
    folds = sorted((p for p in member.folder.iterdir() if p.is_dir() and p.name.isdigit()), key=lambda p: int(p.name))
    for fold in folds:
        shutil.copytree(fold, target / fold.name)
    return Member(
        trial=member.trial,
        family=member.family,
        parameters=dict(member.parameters),
        weight=member.weight,
        folds=len(folds),
    )


def _write_json(path: Path, body: Mapping[str, Any]) -> None:
    path.write_text(
        json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
