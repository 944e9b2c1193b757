"""`bundle.json`: what a bundle is, and the digest of every other file in it.

    bundle.json              this
    card.json                the model card, for people and for the server's page
    members/<i>/<fold>/...   one fitted pipeline a fold, as `Pipeline.save` wrote it

The digest of `bundle.json` therefore stands for the whole model. Nothing in it depends on when or where it was written: the same trials
give the same bytes.
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
from kubeautoml.api.values import ApiModel

FORMAT = 1
BUNDLE, CARD = "bundle.json", "card.json"

# No "..", no hidden files, no backslash, no root: a name that matches stays inside the folder on every system.
_FILE_NAME = re.compile(r"card\.json|members/[0-9]+/[0-9]+(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+")

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class FileFacts(ApiModel):
    """One file of a bundle."""

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]


class Member(ApiModel):
    """One trial's pipelines, a fold each, under members/<position in the list>/."""

    trial: int
    family: str
    parameters: dict[str, bool | int | float | str]
    weight: Annotated[float, Field(gt=0, le=1)]
    folds: Annotated[int, Field(ge=1)]


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

    format: Literal[1]
    created_at: str
    """When the newest trial that it is made from ended, RFC 3339."""
    code_version: str
    libraries: dict[str, str]
    task_type: TaskType
    metric: str
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    members: Annotated[tuple[Member, ...], Field(min_length=1)]
    metrics: dict[str, float]
    """Hold-out metrics."""
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
                f"{where}: file name {name!r} must be card.json or members/<i>/<fold>/<file>; do not use this bundle"
            )
    wanted = {f"members/{i}/{fold}" for i, m in enumerate(manifest.members) for fold in range(m.folds)}
    present = {"/".join(name.split("/")[:3]) for name in manifest.files if name != CARD}
    if wanted != present or CARD not in manifest.files:
        odd = sorted(wanted ^ present)[:3] or [CARD]
        raise BundleError(f"{where}: files and members do not agree about {', '.join(odd)}; copy or train it again")


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_facts(path: Path) -> FileFacts:
    """Digest and size of a file, read piece by piece."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return FileFacts(sha256=sha256, size_bytes=path.stat().st_size)
