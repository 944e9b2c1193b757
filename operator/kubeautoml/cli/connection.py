"""The flags with which kubectl names clusters, namespaces and formats, and the cluster behind them."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from kubeautoml.api.errors import ClusterError, UsageError
from kubeautoml.api.job import AutoMLJob, AutoMLJobSpec
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.cli.complete import complete_with, contexts, job_names, namespaces
from kubeautoml.cli.manifests import to_json, to_yaml
from kubeautoml.controller.observe import parse_status

if TYPE_CHECKING:
    from kubeautoml.cluster.kube import KubeCluster

T = TypeVar("T")

JOB_WORD = "automljob.kubeautoml.dev"


def add_name(parser: argparse.ArgumentParser) -> None:
    """The job; `automljob/NAME`, as kubectl prints it, means the same."""
    name = parser.add_argument("name", metavar="NAME", type=_plain_name, help="name of the AutoMLJob")
    complete_with(name, job_names)


def add_connection(parser: argparse.ArgumentParser, *, all_namespaces: bool = False) -> None:
    """-n, --context, --kubeconfig, as kubectl has them."""
    namespace = parser.add_argument("-n", "--namespace", metavar="NS", help="namespace; default: the context's")
    complete_with(namespace, namespaces)
    if all_namespaces:
        parser.add_argument("-A", "--all-namespaces", action="store_true", help="all namespaces")
    context = parser.add_argument("--context", metavar="NAME", help="kubeconfig context")
    complete_with(context, contexts)
    parser.add_argument(
        "--kubeconfig", metavar="FILE", help="kubeconfig file; default: KUBECONFIG, then ~/.kube/config"
    )


def add_selector(parser: argparse.ArgumentParser) -> None:
    """-l, as kubectl has it."""
    parser.add_argument(
        "-l", "--selector", metavar="LABELS", help="only jobs with these labels, such as team=risk,stage!=test"
    )


def add_output(parser: argparse.ArgumentParser, *choices: str) -> None:
    """-o, as kubectl has it."""
    parser.add_argument("-o", "--output", choices=choices, help="output format; default: a table for people")


def _plain_name(text: str) -> str:
    """The name in automljob/NAME, or the text itself."""
    kind, slash, name = text.rpartition("/")
    if slash and kind.lower().split(".")[0] not in ("automljob", "automljobs", "amj"):
        raise UsageError(f"NAME must be that of an AutoMLJob, such as churn or automljob/churn, got {text!r}")
    return name


def connect(args: argparse.Namespace) -> KubeCluster:
    """The cluster that the flags name."""
    from kubeautoml.cluster.kube import KubeCluster

    return KubeCluster.from_kubeconfig(path=args.kubeconfig, context=args.context)


def namespace_of(args: argparse.Namespace, cluster: KubeCluster) -> str:
    """-n, else the context's own namespace, else default."""
    return args.namespace or cluster.default_namespace


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run one coroutine to its end."""
    return asyncio.run(work)


def get_job(args: argparse.Namespace, cluster: KubeCluster) -> Manifest:
    """The job called args.name.

    Raises:
        ClusterError: there is none; names the nearest one.
    """
    return wait_for(find_job(args, cluster))


async def find_job(args: argparse.Namespace, cluster: KubeCluster) -> Manifest:
    """Likewise, within a coroutine."""
    namespace = namespace_of(args, cluster)
    found = await cluster.get(Ref("AutoMLJob", namespace, args.name))
    if found is not None:
        return found
    from rapidfuzz import process

    names = [m["metadata"]["name"] for m in await _others(cluster, namespace)]
    near = process.extractOne(args.name, names, score_cutoff=60)
    hint = f"did you mean '{near[0]}'?" if near else f"jobs there: {', '.join(sorted(names)[:10]) or 'none'}"
    raise ClusterError(f"AutoMLJob '{args.name}' is not in namespace '{namespace}'; {hint}", reason="NotFound")


async def _others(cluster: KubeCluster, namespace: str) -> list[Manifest]:
    """Who may get a job may perhaps not list them, which must not hide that there is none of that name."""
    try:
        return await cluster.list_metadata("AutoMLJob", namespace)
    except ClusterError as error:
        if error.reason != "Forbidden":
            raise
        return []


def as_job(manifest: Manifest) -> AutoMLJob:
    """A stored object as our type; of one that breaks rules (a refused job, or one of a newer version) as much as can be read."""
    try:
        return AutoMLJob.model_validate(manifest)
    except ValidationError:
        readable = {**manifest, "spec": _readable(manifest.get("spec")), "status": {}}
        return AutoMLJob.model_validate(readable).model_copy(update={"status": parse_status(manifest)})


_NOTHING_KNOWN: Manifest = {
    "task": {"type": "TabularClassification", "target": "unknown"},
    "dataset": {"train": {"uri": "s3://unknown/unknown"}},
    "output": {"uri": "s3://unknown"},
}


def _readable(spec: Any) -> Manifest:
    """The fields that keep the rules, in a spec that does."""
    readable = _NOTHING_KNOWN
    for field, value in spec.items() if isinstance(spec, dict) else ():
        with suppress(ValidationError):
            readable = AutoMLJobSpec.model_validate({**readable, field: value}).to_manifest()
    return readable


def print_objects(objects: list[Manifest], output: str, *, as_list: bool) -> None:
    """json, yaml or name, as kubectl prints them."""
    if output == "name":
        for o in objects:
            print(f"{JOB_WORD}/{o['metadata']['name']}")
        return
    shown: Any = {"apiVersion": "v1", "kind": "List", "items": objects} if as_list else objects[0]
    sys.stdout.write(to_json(shown) + "\n" if output == "json" else to_yaml(shown))
