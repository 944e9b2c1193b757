"""`kubeautoml crds`: print the CustomResourceDefinitions, write them to a folder, or bring those of a cluster up to date."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from kubeautoml.api.crd import make_crds, render_crds
from kubeautoml.api.definitions import Standing, is_established, standing
from kubeautoml.api.errors import ClusterError
from kubeautoml.api.objects import Manifest, Ref
from kubeautoml.cli.parser import VerbParser

if TYPE_CHECKING:
    from kubeautoml.cluster.kube import KubeCluster

SERVED_SECONDS = 60.0
"""How long a definition that was applied may take until the API server serves it; it takes about one."""
_PAUSE_SECONDS = 0.2

MANAGER = "helm"
"""Field manager of the definitions: Helm applies them at the first install, and never over the head of another manager."""


def main(argv: list[str]) -> int:
    """Exit codes: 0 done, 1 the API server refused, 2 misuse."""
    parser = VerbParser(
        "crds", __doc__, "kubeautoml crds --apply", "kubeautoml crds --output crds", program="kubeautoml"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--output", metavar="DIR", help="write one file a kind into this folder instead of printing")
    where.add_argument(
        "--apply",
        action="store_true",
        help="apply them to the cluster by server-side apply, and wait until they are served; newer ones are left alone",
    )
    parser.add_argument("--context", help="kubeconfig context, with --apply")
    parser.add_argument("--kubeconfig", help="kubeconfig file, with --apply; default: KUBECONFIG, then ~/.kube/config")
    args = parser.parse_args(argv)
    if args.apply:
        from kubeautoml.cli.connection import connect

        with closing(connect(args)) as cluster:
            asyncio.run(apply_crds(cluster))
        return 0
    files = render_crds()
    if args.output:
        folder = Path(args.output)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write("---\n".join(files.values()))
    return 0


async def apply_crds(cluster: KubeCluster, patience_seconds: float = SERVED_SECONDS) -> None:
    """Bring the cluster's definitions up to date; print what was done with each.

    Raises:
        ClusterError: the API server refused one, or does not come to serve it.
    """
    deadline = time.monotonic() + patience_seconds
    for crd in make_crds():
        ref = Ref.of(crd)
        before = standing(crd, await cluster.get(ref))
        match before:
            case Standing.NEWER:
                print(f"{ref.name}: left alone, it is newer than this version")
                continue
            case Standing.SAME:
                print(f"{ref.name}: up to date")
                continue
        await cluster.apply(crd, manager=MANAGER)
        await _until_served(cluster, ref, deadline)
        print(f"{ref.name}: {'created' if before is Standing.MISSING else 'updated'}")


async def _until_served(cluster: KubeCluster, ref: Ref, deadline: float) -> None:
    found: Manifest | None = None
    while time.monotonic() < deadline:
        found = await cluster.get(ref)
        if found is not None and is_established(found):
            return
        await asyncio.sleep(_PAUSE_SECONDS)
    conditions = ((found or {}).get("status") or {}).get("conditions") or []
    said = "; ".join(f"{c['type']}={c['status']}: {c.get('message', '')}" for c in conditions) or "it says nothing"
    raise ClusterError(f"{ref} was applied, but is not served: {said}", reason="NotEstablished")
