"""The flags with which kubectl names clusters, namespaces and formats, and the cluster behind them."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from kubeautoml.api.errors import ClusterError
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.cli.manifests import to_json, to_yaml

if TYPE_CHECKING:
    from kubeautoml.cluster.kube import KubeCluster

T = TypeVar("T")


def add_connection(parser: argparse.ArgumentParser, *, all_namespaces: bool = False) -> None:
    """-n, --context, --kubeconfig, as kubectl has them."""
    parser.add_argument("-n", "--namespace", help="namespace; default: the context's")
    parser.add_argument("--context", help="kubeconfig context")
    parser.add_argument("--kubeconfig", help="kubeconfig file; default: KUBECONFIG, then ~/.kube/config")
    if all_namespaces:
        parser.add_argument("-A", "--all-namespaces", action="store_true", help="all namespaces")


def add_output(parser: argparse.ArgumentParser, *choices: str) -> None:
    """-o, as kubectl has it."""
    parser.add_argument("-o", "--output", choices=choices, help="output format; default: a table for people")


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
    namespace = namespace_of(args, cluster)
    found = wait_for(cluster.get(Ref("AutoMLJob", namespace, args.name)))
    if found is not None:
        return found
    from rapidfuzz import process

    names = [m["metadata"]["name"] for m in wait_for(cluster.list("AutoMLJob", namespace))]
    near = process.extractOne(args.name, names, score_cutoff=60)
    hint = f"did you mean '{near[0]}'?" if near else f"jobs there: {', '.join(sorted(names)) or 'none'}"
    raise ClusterError(f"AutoMLJob '{args.name}' is not in namespace '{namespace}'; {hint}", reason="NotFound")


def as_job(manifest: Manifest) -> AutoMLJob:
    """A stored object as our type."""
    return AutoMLJob.model_validate(manifest)


def print_objects(objects: list[Manifest], output: str, *, as_list: bool) -> None:
    """json, yaml or name, as kubectl prints them."""
    if output == "name":
        for o in objects:
            print(f"automljob.kubeautoml.dev/{o['metadata']['name']}")
        return
    shown: Any = {"apiVersion": "v1", "kind": "List", "items": objects} if as_list else objects[0]
    sys.stdout.write(to_json(shown) + "\n" if output == "json" else to_yaml(shown))
