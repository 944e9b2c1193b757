"""`bundle.json`: what a bundle is, and the digest of every other file in it.

    bundle.json         this
    card.json           the model card, for people and for the server's page
    pipelines/<i>/...   one fitted pipeline, as `Pipeline.save` wrote it; variants may share it
    second/<i>/...      a second level, as `SecondLevel.save` wrote it; where it won
    encoders/<sha256>/... a sentence encoder by which pipelines read texts (`features.encoders`); stored once, whoever reads by it

The digest of `bundle.json` therefore stands for the whole model, in all its variants. Nothing in it depends on when or where it was
written: the same pipelines give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError

from kubeautoml.api.errors import BundleError
from kubeautoml.api.metrics import TaskType
from kubeautoml.api.objective import ModelVariant
from kubeautoml.api.values import ApiModel

FORMAT = 5
"""Written, and read: 2 had no second level, and in 3 and 4 trees were stored in other ways."""
BUNDLE, CARD = "bundle.json", "card.json"

# No "..", no hidden files, no backslash, no root: a name that matches stays inside the folder on every system.
_FILE_NAME = re.compile(r"card\.json|((pipelines|second)/[0-9]+|encoders/[0-9a-f]{64})(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+")

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class FileFacts(ApiModel):
    """One file of a bundle."""

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]


class Member(ApiModel):
    """What one trial gives to a variant: the mean of its pipelines, weighed."""

    trial: int
    family: str
    parameters: dict[str, bool | int | float | str]
    weight: Annotated[float, Field(ge=0, le=1)]
    """0 for one that only the second level asks."""
    pipelines: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    """Numbers <i> below pipelines/: one a fold, or one that learned from all rows."""


class SecondLevelFacts(ApiModel):
    """What puts the members' predictions right; its answer is weighed like one more member."""

    weight: Annotated[float, Field(gt=0, le=1)]
    place: Annotated[int, Field(ge=0)]
    """Number <i> below second/."""
    inputs: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    """Positions of the members that it asks, in its order."""
    cross_validated: float
    """The metric of its answers alone, on nested folds."""


class Variant(ApiModel):
    """One form of the model: the weighted mean of its members (and of a second level), and what is done to it."""

    name: ModelVariant
    members: Annotated[tuple[Member, ...], Field(min_length=1)]
    second: SecondLevelFacts | None = None
    post: dict[str, Any]
    """What is done to the mean, as `tasks.post.Post.to_json` writes it: calibration, decision, intervals."""
    cross_validated: float | None
    """The metric on rows that were left out, where it was measured for this form or follows from its members'."""
    metrics: dict[str, float]
    """Hold-out metrics."""
    notes: tuple[str, ...] = ()
    """What is not as usual with it, such as members there was no time to fit again."""


class Lineage(ApiModel):
    """Where a model came from; as in `AutoMLModel`."""

    job_name: str
    job_uid: str
    namespace: str
    data_sha256: str
    trials: int
    seed: int


class Manifest(ApiModel):
    """The content of bundle.json. `schema_` is as `data.schema.schema_to_json` writes it."""

    format: Literal[5]
    created_at: str
    """When the newest trial that it is made from ended, RFC 3339."""
    code_version: str
    libraries: dict[str, str]
    task_type: TaskType
    metric: str
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    variants: Annotated[tuple[Variant, ...], Field(min_length=1)]
    """The first one answers unless another is asked for."""
    lineage: Lineage
    files: dict[str, FileFacts]


def manifest_bytes(manifest: Manifest) -> bytes:
    """The bytes of bundle.json; the same for equal manifests."""
    body = manifest.model_dump(mode="json", by_alias=True)
    return (json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Read bundle.json.

    Raises:
        BundleError: not JSON, another format version, a field too many or too few, a file name that would leave the folder.
    """
    try:
        body = json.loads(data)
    except ValueError as error:
        raise BundleError(f"{where} is not JSON ({error}); the bundle is damaged, copy or train it again") from error
    found = body.get("format") if isinstance(body, dict) else None
    if found != FORMAT:
        raise BundleError(
            f"{where}: format must be {FORMAT}, got {found!r}; "
            "load it with the version of kubeautoml that wrote it, or train it again"
        )
    try:
        manifest = Manifest.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(p) for p in first["loc"])
        raise BundleError(f"{where}: {field}: {first['msg']}; the bundle is damaged, copy or train it again") from error
    _check_names(manifest, where)
    return manifest


def _check_names(manifest: Manifest, where: str) -> None:
    for name in manifest.files:
        if not _FILE_NAME.fullmatch(name):
            raise BundleError(
                f"{where}: file name {name!r} must be card.json, or <file> below pipelines/<i>, second/<i> or encoders/<sha256>; "
                "do not use this bundle"
            )
    names = [v.name.value for v in manifest.variants]
    if len(set(names)) != len(names):
        raise BundleError(f"{where}: variants must differ, got {', '.join(names)}; copy or train it again")
    for v in manifest.variants:
        if v.second is not None and max(v.second.inputs) >= len(v.members):
            raise BundleError(
                f"{where}: second level of {v.name.value} asks for a member that is not there; train it again"
            )
    wanted = {f"pipelines/{i}" for v in manifest.variants for m in v.members for i in m.pipelines}
    wanted |= {f"second/{v.second.place}" for v in manifest.variants if v.second is not None}
    present = {"/".join(name.split("/")[:2]) for name in manifest.files if name != CARD}
    # who reads by an encoder stands in the pipelines themselves
    present = {place for place in present if not place.startswith("encoders/")}
    if wanted != present or CARD not in manifest.files:
        odd = sorted(wanted ^ present)[:3] or [CARD]
        raise BundleError(f"{where}: files and variants do not agree about {', '.join(odd)}; copy or train it again")


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_facts(path: Path) -> FileFacts:
    """Digest and size of a file, read piece by piece."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return FileFacts(sha256=sha256, size_bytes=path.stat().st_size)
