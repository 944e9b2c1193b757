"""A folder in place of object storage: for a laptop, s3://bucket/key is FOLDER/bucket/key and needs no secret."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from kubeautoml.api.errors import UsageError
from kubeautoml.api.objects import Manifest


def in_folders(manifest: Manifest, folder: Path) -> Manifest:
    """The manifest with its s3:// URIs turned into file:// ones below the folder.

    Raises:
        UsageError: there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"--buckets {folder} must be a folder that holds one folder a bucket")
    changed = deepcopy(manifest)
    spec = _object(changed, "spec")
    dataset = _object(spec, "dataset")
    weights = _object(spec, "search").get("pretrained")
    for holder in (
        dataset.get("train"),
        dataset.get("test"),
        spec.get("output"),
        *(weights if isinstance(weights, list) else ()),
    ):
        if isinstance(holder, dict):
            _move(holder, folder.resolve())
    return changed


def _object(holder: dict[str, Any], key: str) -> dict[str, Any]:
    """The object at a key; an empty one where the manifest is wrong, which validation will say."""
    found = holder.get(key)
    return found if isinstance(found, dict) else {}


def _move(holder: dict[str, Any], folder: Path) -> None:
    uri = holder.get("uri")
    if isinstance(uri, str) and uri.startswith("s3://"):
        holder["uri"] = f"file://{folder}/{uri.removeprefix('s3://')}"
        holder.pop("secretRef", None)


EVERYWHERE = ("s3:///", "file:///")


def on_this_machine(document: Manifest) -> Manifest:
    """A profile that allows every location; other documents as they are.

    What a platform team allows in its object storage says nothing about the folders of this machine.
    """
    spec = document.get("spec")
    if document.get("kind") != "AutoMLProfile" or not isinstance(spec, dict):
        return document
    locations = {"dataPrefixes": [*EVERYWHERE], "outputPrefixes": [*EVERYWHERE]}
    return {**document, "spec": {**spec, "locations": locations}}
