"""The files of a bundle, and the list that vouches for them.

`bundle.json` names every other file with size and SHA-256; its own digest is the version's identity (AutoMLModel.spec.sha256).
Nothing in a bundle is code: native booster files, safetensors and JSON, never pickle.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

from kubeautoml.api.errors import BundleError

FORMAT = 1
INDEX = "bundle.json"


def write_index(folder: Path, body: dict[str, Any]) -> str:
    """Write `bundle.json` for all files below the folder; returns its SHA-256."""
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != INDEX
    }
    text = json.dumps({"format": FORMAT, **body, "files": files}, indent=1, ensure_ascii=False)
    (folder / INDEX).write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def read_index(folder: Path, sha256: str | None) -> dict[str, Any]:
    """Read and check `bundle.json` against its digest and every file against its own.

    Raises:
        BundleError: anything is missing, changed, too much, or of another format; names the file.
    """
    try:
        data = (folder / INDEX).read_bytes()
    except OSError as error:
        raise BundleError(f"{folder} is no model: {INDEX} is missing; give the folder that holds it") from error
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise BundleError(
            f"{INDEX} must have SHA-256 {sha256}, got {hashlib.sha256(data).hexdigest()}; the model was changed"
        )
    body = parse_index(data)
    _check_files(folder, body["files"])
    return body


def parse_index(data: bytes) -> dict[str, Any]:
    """The contents of `bundle.json`.

    Raises:
        BundleError: damaged, or written in another format.
    """
    try:
        body = json.loads(data)
    except ValueError as error:
        raise BundleError(f"{INDEX} is damaged: {error}; train the model again") from error
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        found = body.get("format") if isinstance(body, dict) else None
        raise BundleError(f"{INDEX}: format must be {FORMAT}, got {found}; use the version of KubeAutoML that wrote it")
    for name in body.get("files", {}):
        check_name(name)
    return body


def check_name(name: str) -> None:
    """Refuse names that lead out of the bundle."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not name:
        raise BundleError(f"{INDEX} names the file '{name}', which is not inside the model; do not use this model")


def _check_files(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {INDEX}
    for name in sorted(set(files) - present):
        raise BundleError(f"the file '{name}' of the model is missing; copy the whole folder")
    for name in sorted(present - set(files)):
        raise BundleError(f"the file '{name}' does not belong to the model; remove it")
    for name, facts in files.items():
        if sha256_of(folder / name) != facts["sha256"]:
            raise BundleError(f"the file '{name}' of the model was changed: its SHA-256 is not the one in {INDEX}")


def sha256_of(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
