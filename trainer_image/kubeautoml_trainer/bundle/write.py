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
from kubeautoml.api.objective import ModelVariant
from kubeautoml_trainer.bundle.manifest import (
    BUNDLE,
    CARD,
    FORMAT,
    Lineage,
    Manifest,
    Member,
    SecondLevelFacts,
    Variant,
    digest,
    file_facts,
    manifest_bytes,
)
from kubeautoml_trainer.data.base import Schema
from kubeautoml_trainer.data.schema import schema_to_json
from kubeautoml_trainer.features.encoders import IN_BUNDLE, encoder_named
from kubeautoml_trainer.features.stored import encoders_of
from kubeautoml_trainer.models.base import Pipeline
from kubeautoml_trainer.models.space import Parameters
from kubeautoml_trainer.tasks.post import IDENTITY, Post

# What a prediction's last digits may depend on.
_LIBRARIES = (
    "numpy",
    "pandas",
    "scikit-learn",
    "lightgbm",
    "catboost",
    "xgboost-cpu",
    "safetensors",
    "torch",
    "onnxruntime",
    "tokenizers",
)


@dataclass(frozen=True)
class MemberFiles:
    """One trial on its way into a variant: `folders` hold one saved pipeline each. A folder that several members name is stored once."""

    trial: int
    family: str
    parameters: Parameters
    weight: float
    folders: tuple[Path, ...]


@dataclass(frozen=True)
class SecondFiles:
    """A second level on its way into a variant. inputs: numbers of the trials it asks, all of them members, in its order."""

    weight: float
    inputs: tuple[int, ...]
    cross_validated: float
    folder: Path


@dataclass(frozen=True)
class VariantFiles:
    """One form of the model on its way into a bundle; fields as in `manifest.Variant`. members: their weights, and that of the
    second level, sum to 1.
    """

    name: ModelVariant
    members: Sequence[MemberFiles]
    metrics: Mapping[str, float]
    """Hold-out metrics; those that are not defined (NaN) must be left out."""
    cross_validated: float | None = None
    post: Post = IDENTITY
    notes: tuple[str, ...] = ()
    second: SecondFiles | None = None


def save_member(pipelines: Sequence[Pipeline], folder: Path, *, trial: int = 0, weight: float = 1.0) -> MemberFiles:
    """Save fitted pipelines, a fold each, so that they can go into a bundle."""
    folders = tuple(folder / str(fold) for fold in range(len(pipelines)))
    for pipeline, place in zip(pipelines, folders, strict=True):
        place.mkdir(parents=True)
        pipeline.save(place)
    return MemberFiles(trial, pipelines[0].family, pipelines[0].parameters, weight, folders)


def write_bundle(
    folder: Path,
    *,
    schema: Schema,
    task_type: TaskType,
    metric: str,
    variants: Sequence[VariantFiles],
    lineage: Lineage,
    card: Mapping[str, Any],
    created_at: str,
) -> str:
    """Write a bundle; `bundle.json` last.

    Args:
        folder: absent or empty.
        variants: the first one answers unless another is asked for.

    Returns:
        The digest of bundle.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / CARD, dict(card))
    numbers: dict[Path, int] = {}
    described = tuple(_copy_variant(v, folder, numbers) for v in variants)
    for sha256 in sorted({name for source in numbers for name in encoders_of(source)}):
        shutil.copytree(encoder_named(sha256).folder, folder / IN_BUNDLE / sha256)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    manifest = Manifest(
        format=FORMAT,
        created_at=created_at,
        code_version=__version__,
        libraries=_versions(),
        task_type=task_type,
        metric=metric,
        schema_=json.loads(schema_to_json(schema)),
        variants=described,
        lineage=lineage,
        files={name: file_facts(folder / name) for name in names},
    )
    data = manifest_bytes(manifest)
    (folder / BUNDLE).write_bytes(data)
    return digest(data)


def bundle_size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _copy_variant(variant: VariantFiles, target: Path, numbers: dict[Path, int]) -> Variant:
    """Copy what is not there yet; `numbers` says which folder became which pipeline, or second level."""

    def copied(source: Path, kind: str) -> int:
        if source not in numbers:
            numbers[source] = len(numbers)
            shutil.copytree(source, target / kind / str(numbers[source]))
        return numbers[source]

    members = []
    for m in variant.members:
        places = tuple(copied(source, "pipelines") for source in m.folders)
        members.append(
            Member(trial=m.trial, family=m.family, parameters=dict(m.parameters), weight=m.weight, pipelines=places)
        )
    second, trials = variant.second, [m.trial for m in variant.members]
    return Variant(
        name=variant.name,
        members=tuple(members),
        second=None
        if second is None
        else SecondLevelFacts(
            weight=second.weight,
            place=copied(second.folder, "second"),
            inputs=tuple(trials.index(n) for n in second.inputs),
            cross_validated=second.cross_validated,
        ),
        post=variant.post.to_json(),
        cross_validated=variant.cross_validated,
        metrics=dict(variant.metrics),
        notes=variant.notes,
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
