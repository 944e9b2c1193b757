"""Loads a bundle, from disk or object storage, and refuses what is not exactly what `bundle.json` says."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

from kubeautoml.api.errors import BundleError, ObjectNotFound, UsageError
from kubeautoml.storage import ObjectStore, open_store
from kubeautoml_trainer.bundle.manifest import BUNDLE, CARD, Manifest, Variant, digest, file_facts, parse_manifest
from kubeautoml_trainer.bundle.model import LoadedMember, LoadedSecond, Model
from kubeautoml_trainer.data.schema import schema_from_json
from kubeautoml_trainer.models.pipeline import load_pipeline
from kubeautoml_trainer.models.second_level import load_second_level
from kubeautoml_trainer.tasks import task_for
from kubeautoml_trainer.tasks.post import Post

_AGAIN = "copy the whole folder again, or train the model again"


def load_bundle(
    uri: str | Path, credentials_dir: Path | None = None, sha256: str | None = None, variant: str | None = None
) -> Model:
    """Load and check a model.

    Args:
        uri: the folder: a path, a file:// URI, or an s3:// URI, which is downloaded once into a cache.
        credentials_dir: files AWS_ACCESS_KEY_ID, ...; None for the machine's own credentials.
        sha256: the digest that bundle.json must have.
        variant: the form that answers, in any case, such as "Fast"; None for the bundle's first. Only its pipelines are read.

    Raises:
        BundleError: no bundle, another version, a file that is missing, changed or not listed, or no such variant; says which and
            what to do.
        StorageError: the storage refuses or does not answer.
    """
    location = str(uri).rstrip("/")
    if location.startswith("file://"):
        return _load_folder(Path(unquote(location.removeprefix("file://"))), sha256, variant)
    if "://" not in location:
        return _load_folder(Path(location), sha256, variant)
    return _load_folder(_downloaded(location, credentials_dir, sha256), sha256, variant)


def _load_folder(folder: Path, sha256: str | None, name: str | None) -> Model:
    data = _read_manifest(folder)
    found = _check_digest(data, sha256, str(folder / BUNDLE))
    manifest = parse_manifest(data, str(folder / BUNDLE))
    variant = _chosen(manifest, name, str(folder))
    _check_files(folder, manifest)
    schema = schema_from_json(json.dumps(manifest.schema_))
    members = tuple(
        LoadedMember(m.weight, tuple(load_pipeline(folder / "pipelines" / str(i)) for i in m.pipelines))
        for m in variant.members
    )
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    return Model(
        manifest,
        variant,
        found,
        schema,
        task_for(manifest.task_type, schema),
        members,
        _post(variant, folder),
        card,
        _second(variant, folder),
    )


def _chosen(manifest: Manifest, name: str | None, where: str) -> Variant:
    """The variant of this name, the first one for None."""
    if name is None:
        return manifest.variants[0]
    for variant in manifest.variants:
        if variant.name.value.lower() == name.lower():
            return variant
    known = ", ".join(v.name.value for v in manifest.variants)
    raise BundleError(
        f"{where} has no variant '{name}', it has {known}; choose one of them, or name it in spec.output.variants of a new job"
    )


def _second(variant: Variant, folder: Path) -> LoadedSecond | None:
    facts = variant.second
    if facts is None:
        return None
    level = load_second_level(folder / "second" / str(facts.place))
    if len(level.base) != len(facts.inputs):
        raise BundleError(
            f"{folder / BUNDLE}: second level of variant {variant.name.value} must ask {len(level.base)} members, "
            f"got {len(facts.inputs)}; {_AGAIN}"
        )
    return LoadedSecond(facts.weight, facts.inputs, level)


def _post(variant: Variant, folder: Path) -> Post:
    try:
        return Post.from_json(variant.post)
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{folder / BUNDLE}: post of variant {variant.name.value}: {error!r}; {_AGAIN}") from error


def _read_manifest(folder: Path) -> bytes:
    try:
        return (folder / BUNDLE).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(f"{folder} holds no {BUNDLE}, so it is no model; check the path") from error
    except OSError as error:
        raise BundleError(f"{folder / BUNDLE} cannot be read: {error.strerror}; check its permissions") from error


def _check_digest(data: bytes, wanted: str | None, where: str) -> str:
    found = digest(data)
    if wanted and found != wanted.lower():
        raise BundleError(
            f"{where} must have sha256 {wanted}, got {found}; it is another model, or was changed: {_AGAIN}"
        )
    return found


def _check_files(folder: Path, manifest: Manifest) -> None:
    """Exactly the files listed, and each as it was written; links are refused, they may lead anywhere."""
    present = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}
    present.pop(BUNDLE, None)
    for name in sorted(set(manifest.files) - set(present)):
        raise BundleError(f"{folder / name} is missing; {_AGAIN}")
    for name in sorted(set(present) - set(manifest.files)):
        raise BundleError(f"{folder / name} is not listed in {BUNDLE}; remove it if you put it there, else {_AGAIN}")
    for name, facts in manifest.files.items():
        path = present[name]
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{path} must be a plain file; {_AGAIN}")
        if file_facts(path) != facts:
            raise BundleError(f"{path} was changed or cut off since it was written; {_AGAIN}")


def _downloaded(uri: str, credentials_dir: Path | None, sha256: str | None) -> Path:
    """The bundle's copy in the cache, which is named by its digest."""
    try:
        store = open_store(uri, credentials_dir)
    except UsageError as error:
        raise BundleError(f"a model must be a folder, a file:// or an s3:// URI, got {uri}") from error
    try:
        data = store.read(f"{uri}/{BUNDLE}")
    except ObjectNotFound as error:
        raise BundleError(f"{uri} holds no {BUNDLE}, so it is no model; check the URI") from error
    found = _check_digest(data, sha256, f"{uri}/{BUNDLE}")
    manifest = parse_manifest(data, f"{uri}/{BUNDLE}")
    _refuse_strangers(store, uri, manifest)
    target = _cache_folder() / found
    if not _is_complete(target, manifest):
        _fetch(store, uri, manifest, data, target)
    return target


def _refuse_strangers(store: ObjectStore, uri: str, manifest: Manifest) -> None:
    listed = {f"{uri}/{name}" for name in (BUNDLE, *manifest.files)}
    for stored in store.find(f"{uri}/", hidden=True):
        if stored.uri not in listed:
            raise BundleError(f"{stored.uri} is not listed in {BUNDLE}; remove it if you put it there, else {_AGAIN}")


def _is_complete(target: Path, manifest: Manifest) -> bool:
    """Whether the cached copy can be used; one that somebody damaged is fetched again."""
    if not target.is_dir():
        return False
    try:
        _check_files(target, manifest)
    except BundleError:
        shutil.rmtree(target, ignore_errors=True)
        return False
    return True


def _fetch(store: ObjectStore, uri: str, manifest: Manifest, data: bytes, target: Path) -> None:
    """Download beside the target, then take its name: two processes at once both end with a whole copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: _fetch_file(store, uri, name, partial), manifest.files))
        (partial / BUNDLE).write_bytes(data)
        try:
            partial.rename(target)
        except OSError:
            if not _is_complete(target, manifest):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fetch_file(store: ObjectStore, uri: str, name: str, folder: Path) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        store.download(f"{uri}/{name}", path)
    except ObjectNotFound as error:
        raise BundleError(f"{uri}/{name} is missing; {_AGAIN}") from error


def _cache_folder() -> Path:
    """Where downloaded bundles are kept; below the temporary folder where the home cannot be written (containers)."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kubeautoml" / "bundles"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if os.access(home, os.W_OK):
            return home
    except OSError:
        pass
    return Path(tempfile.gettempdir()) / f"kubeautoml-bundles-{os.getuid()}"
