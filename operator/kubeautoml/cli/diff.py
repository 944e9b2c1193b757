"""`kubectl automl diff -f FILE`: what applying a manifest again would change, and what of it would be refused."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from rich.text import Text

from kubeautoml.api.cel import IMMUTABLE
from kubeautoml.api.errors import ClusterError, KubeAutoMLError, ManifestError
from kubeautoml.api.form import problems
from kubeautoml.api.job import AutoMLJobSpec
from kubeautoml.api.kinds import API_VERSION
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.cli.connection import add_connection, connect, namespace_of, wait_for
from kubeautoml.cli.manifests import read_manifests, to_yaml
from kubeautoml.cli.parser import VerbParser
from kubeautoml.cli.view import output_console
from kubeautoml.cluster.kube import KubeCluster
from kubeautoml.cluster.merge import merge_patch
from kubeautoml.cluster.resources import resource_of

SAME, DIFFERENT, FAILED = 0, 1, 2
"""Exit codes of `kubectl diff`."""

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""Where `kubectl apply` without --server-side keeps what it sent."""

KINDS = ("AutoMLJob", "AutoMLModel", "AutoMLProfile")

_SERVER_FIELDS = ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink")

STILL_HEEDED = ("serving", "retention")
"""What of the spec of a job that has ended still has an effect."""


def parser() -> VerbParser:
    made = VerbParser("diff", __doc__, "kubectl automl diff -f churn.yaml && echo 'nothing would change'")
    made.description = (
        f"{made.description} The API server is asked by a dry run, in the way in which the object was applied before. "
        "Exit codes as of kubectl diff: 0 nothing would change, 1 something would, 2 it would be refused, or cannot be known."
    )
    made.add_argument("-f", "--filename", required=True, action="append", help="manifest, or - for standard input")
    made.add_argument("--server-side", action="store_true", help="as `kubectl apply --server-side` would")
    who = "who applies, with --server-side; default: %(default)s"
    made.add_argument("--field-manager", default="kubectl", metavar="NAME", help=who)
    add_connection(made)
    return made


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    try:
        documents = [(file, d) for file in args.filename for d in read_manifests(file)]
        wanted = [
            _checked(file, d) for file, d in documents if d.get("apiVersion") == API_VERSION or d["kind"] in KINDS
        ]
        left_out = sorted({d["kind"] for _, d in documents} - {d["kind"] for d in wanted})
        if not wanted:
            raise ManifestError(f"{', '.join(args.filename)} holds no AutoMLJob, AutoMLModel or AutoMLProfile")
        cluster = connect(args)
        found = [wait_for(compare(_placed(d, args, cluster), args, cluster)) for d in wanted]
    except KubeAutoMLError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    for difference in found:
        _show(difference)
    if left_out:
        print(f"note: {', '.join(left_out)} left out; see kubectl diff for them", file=sys.stderr)
    if any(difference.refusal for difference in found):
        return FAILED
    return DIFFERENT if any(difference.lines for difference in found) else SAME


@dataclass(frozen=True)
class Difference:
    """What applying one object would change."""

    ref: Ref
    lines: tuple[str, ...]
    """Of a unified diff; none when nothing would change."""
    refusal: str = ""
    """Why the API server would refuse it."""
    note: str = ""


async def compare(wanted: Manifest, args: argparse.Namespace, cluster: KubeCluster) -> Difference:
    """Ask the API server.

    Raises:
        ClusterError: it does not answer, or we may not do that.
    """
    ref = Ref.of(wanted)
    live = await cluster.get(ref)
    patch = None if live is None or args.server_side else three_way_patch(live, wanted)
    manager = args.field_manager if live is not None and patch is None else None
    refusal = ""
    try:
        merged = await cluster.dry_run(wanted, manager=manager, patch=patch)
    except ClusterError as error:
        if error.reason not in ("Invalid", "BadRequest"):
            raise
        merged, refusal = merge_patch(live or {}, wanted if patch is None else patch), str(error)
    frozen = immutable_changes(live, merged)
    if frozen:
        refusal = immutable_words(ref, frozen)
    return Difference(ref, tuple(unified(ref, live, merged)), refusal, _note(live, merged))


def three_way_patch(live: Manifest, wanted: Manifest) -> Manifest | None:
    """What client-side `kubectl apply` would send; None for an object that was not applied so.

    Fields of the manifest are set, fields that were in the last one and are not in this one are taken out, all others stay.
    """
    text = live["metadata"].get("annotations", {}).get(LAST_APPLIED)
    try:
        last = json.loads(text) if text else None
    except ValueError:
        last = None
    return merge_patch_of(last, wanted) if isinstance(last, dict) else None


def merge_patch_of(last: Manifest, wanted: Manifest) -> Manifest:
    """`wanted` with null where `last` has a field that it lacks."""
    patch: Manifest = {key: None for key in last if key not in wanted}
    for key, value in wanted.items():
        before = last.get(key)
        both = isinstance(value, dict) and isinstance(before, dict)
        patch[key] = merge_patch_of(before, value) if both else deepcopy(value)  # type: ignore[arg-type]
    return patch


def immutable_changes(live: Manifest | None, merged: Manifest) -> list[str]:
    """Fields that may not change and would: also on a server that is too old to refuse it, where the operator would never see it."""
    if live is None or live["kind"] == "AutoMLProfile":
        return []
    if live["kind"] == "AutoMLModel":
        return ["spec"] if live.get("spec") != merged.get("spec") else []
    before, after = _with_defaults(live.get("spec") or {}), _with_defaults(merged.get("spec") or {})
    return [f"spec.{name}" for name in IMMUTABLE["AutoMLJobSpec"] if before.get(name) != after.get(name)]


def _with_defaults(spec: Manifest) -> Manifest:
    """As the API server would fill it in; as it stands where it breaks rules."""
    try:
        return AutoMLJobSpec.model_validate(spec).to_manifest()
    except ValidationError:
        return spec


def immutable_words(ref: Ref, fields: list[str]) -> str:
    """What to do instead."""
    names = " and ".join([", ".join(fields[:-1]), fields[-1]] if len(fields) > 1 else fields)
    words = f"{ref}: {names} cannot change after creation, so applying this would be refused; apply it under another metadata.name"
    if ref.kind != "AutoMLJob":
        return words
    return (
        f"{words} (spec.search.warmStartFrom: [{{name: {ref.name}}}] begins with the best trials of this one), "
        f"or delete the job first: kubectl delete automljob {ref.name} -n {ref.namespace}"
    )


def _note(live: Manifest | None, merged: Manifest) -> str:
    """What will have no effect, although it may be changed."""
    if live is None or live["kind"] != "AutoMLJob" or not live.get("status", {}).get("completionTime"):
        return ""
    before, after = live.get("spec") or {}, merged.get("spec") or {}
    idle = [f"spec.{k}" for k in {**before, **after} if k not in STILL_HEEDED and before.get(k) != after.get(k)]
    name = live["metadata"]["name"]
    return f"AutoMLJob '{name}' has ended: a change of {', '.join(idle)} has no effect on it" if idle else ""


def unified(ref: Ref, live: Manifest | None, merged: Manifest) -> Iterator[str]:
    """Lines as of `diff -u`, over what people write into manifests."""
    name = ".".join(part for part in (resource_of(ref.kind).api_version, ref.kind, ref.namespace, ref.name) if part)
    name = name.replace("/", ".")
    before = [] if live is None else to_yaml(_cleaned(live)).splitlines()
    yield from difflib.unified_diff(
        before, to_yaml(_cleaned(merged)).splitlines(), f"live/{name}", f"merged/{name}", lineterm=""
    )


def _cleaned(manifest: Manifest) -> Any:
    """Without what the server keeps for itself, and with sorted keys."""
    metadata = {k: v for k, v in manifest["metadata"].items() if k not in _SERVER_FIELDS}
    annotations = {k: v for k, v in metadata.pop("annotations", {}).items() if k != LAST_APPLIED}
    shown = {k: v for k, v in manifest.items() if k != "status"}
    return _sorted({**shown, "metadata": {**metadata, **({"annotations": annotations} if annotations else {})}})


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _sorted(value[k]) for k in sorted(value)}
    return [_sorted(v) for v in value] if isinstance(value, list) else value


def _checked(file: str, manifest: Manifest) -> Manifest:
    """A manifest that has a chance.

    Raises:
        ManifestError: it breaks a rule that can be told here.
    """
    if not isinstance(manifest.get("metadata"), dict) or not manifest["metadata"].get("name"):
        raise ManifestError(f"{file}: {manifest['kind']} must have a metadata.name")
    if manifest["kind"] == "AutoMLJob" and (found := next(iter(problems(manifest)), None)):
        raise ManifestError(f"{file}: {found.message}")
    return manifest


def _placed(manifest: Manifest, args: argparse.Namespace, cluster: KubeCluster) -> Manifest:
    """The manifest in its namespace.

    Raises:
        ManifestError: -n says another one than the manifest.
    """
    if not resource_of(manifest["kind"]).is_namespaced:
        return manifest
    metadata = manifest["metadata"]
    own = metadata.get("namespace")
    if own and args.namespace and own != args.namespace:
        raise ManifestError(
            f"{manifest['kind']} '{metadata['name']}' says metadata.namespace: {own}, and -n says {args.namespace}; leave one of both out"
        )
    return {**manifest, "metadata": {**metadata, "namespace": own or namespace_of(args, cluster)}}


def _show(difference: Difference) -> None:
    console = output_console()
    for line in difference.lines:
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[0], "") if console.is_terminal else ""
        console.print(Text(line, style="bold" if line[:3] in ("---", "+++") else style), soft_wrap=True)
    if difference.refusal:
        print(f"error: {difference.refusal}", file=sys.stderr)
    if difference.note:
        print(f"note: {difference.note}", file=sys.stderr)
