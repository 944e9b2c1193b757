"""`kubeautoml rbac`: print the accounts, roles and bindings that operator and study server need, for `kubectl apply -f -`."""

from __future__ import annotations

import re
import sys

import yaml

from kubeautoml.api.errors import UsageError
from kubeautoml.api.rights import OPERATOR_NAMESPACE, role_objects
from kubeautoml.api.values import DNS_LABEL_PATTERN
from kubeautoml.cli.parser import VerbParser


def main(argv: list[str]) -> int:
    """Print YAML. Exit codes: 0 done, 2 misuse."""
    parser = VerbParser(
        "rbac",
        __doc__,
        "kubeautoml rbac | kubectl apply --server-side -f -",
        "kubeautoml rbac -n team-a -n team-b",
        program="kubeautoml",
    )
    parser.add_argument(
        "--operator-namespace",
        metavar="NS",
        default=OPERATOR_NAMESPACE,
        help="where operator and study server run; default: %(default)s",
    )
    parser.add_argument(
        "-n",
        "--namespace",
        metavar="NS",
        action="append",
        default=[],
        help="give the operator Roles in this namespace only, instead of a ClusterRole; may be repeated",
    )
    args = parser.parse_args(argv)
    for option, name in (
        ("--operator-namespace", args.operator_namespace),
        *(("--namespace", n) for n in args.namespace),
    ):
        if not re.fullmatch(DNS_LABEL_PATTERN, name) or len(name) > 63:
            raise UsageError(f"{option} must be the name of a namespace, such as team-a, got {name!r}")
    objects = role_objects(args.operator_namespace, tuple(dict.fromkeys(args.namespace)))
    yaml.safe_dump_all(objects, sys.stdout, sort_keys=False)
    return 0
