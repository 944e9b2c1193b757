"""`kubeautoml certificate`: make the study server's TLS secret, where nobody else does. A Job of the install runs it.

A secret that is there is kept, unless its certificate is damaged, for other names, or about to end.
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from typing import Any

import urllib3

from kubeautoml.api.errors import ClusterError, Conflict, UsageError
from kubeautoml.api.objects import Manifest
from kubeautoml.api.rights import STUDY_TLS_SECRET
from kubeautoml.api.values import DNS_LABEL_PATTERN
from kubeautoml.cli.parser import VerbParser
from kubeautoml.cluster.answers import NotFound, decoded, error_of
from kubeautoml.cluster.connection import Connection, Request
from kubeautoml.study.authority import make_pair, why_replace

_TIMEOUTS = (5.0, 30.0)
_MERGE = "application/merge-patch+json"


def main(argv: list[str]) -> int:
    """Make or keep the secret, and say which. Exit codes: 0 done, 1 the API server refused, 2 misuse."""
    parser = VerbParser(
        "certificate",
        __doc__,
        "kubeautoml certificate --service kubeautoml-study -n kubeautoml-system",
        program="kubeautoml",
    )
    parser.add_argument("--secret", metavar="NAME", default=STUDY_TLS_SECRET, help="default: %(default)s")
    parser.add_argument("--service", metavar="NAME", default="kubeautoml-study", help="default: %(default)s")
    parser.add_argument("-n", "--namespace", metavar="NS", help="default: this pod's, or the context's")
    parser.add_argument("--kubeconfig", help="kubeconfig file; default: KUBECONFIG, then this pod's account")
    args = parser.parse_args(argv)
    connection = Connection.from_kubeconfig(args.kubeconfig)
    namespace = args.namespace or connection.default_namespace
    for option, name in (("--service", args.service), ("--namespace", namespace)):
        if not re.fullmatch(DNS_LABEL_PATTERN, name):
            raise UsageError(f"{option} must be a DNS label, such as kubeautoml-study, got {name!r}")
    print(keep_certificate(connection, namespace, args.secret, args.service, datetime.now(UTC)))
    return 0


def keep_certificate(connection: Connection, namespace: str, secret: str, service: str, now: datetime) -> str:
    """See to it that the secret holds a certificate for the service.

    Returns:
        what was done, in one line.

    Raises:
        ClusterError: the API server refused.
    """
    names = tuple(
        f"{service}{end}" for end in (f".{namespace}.svc", "", f".{namespace}", f".{namespace}.svc.cluster.local")
    )
    what = f"secret {namespace}/{secret}"
    path = f"/api/v1/namespaces/{namespace}/secrets"
    found = _find(connection, f"{path}/{secret}")
    why = "there is none" if found is None else why_replace(_data(found), names, now)
    if why is None:
        return f"{what} is kept: its certificate is good for {names[0]}"
    data = {key: base64.b64encode(value).decode() for key, value in make_pair(names, now).to_data().items()}
    if found is not None:
        _send(
            connection,
            Request("patch", "Secret", "PATCH", f"{path}/{secret}", body={"data": data}, content_type=_MERGE),
        )
        return f"{what} has a new certificate for {names[0]}, since {why}; restart pods that still trust the old one"
    try:
        _send(connection, Request("create", "Secret", "POST", path, body=_secret(secret, namespace, data)))
    except Conflict:
        return f"{what} is kept: somebody else has just made it"
    return f"{what} was made, with a certificate for {names[0]}"


def _secret(name: str, namespace: str, data: dict[str, str]) -> Manifest:
    labels = {"app.kubernetes.io/name": "kubeautoml-study", "app.kubernetes.io/part-of": "kubeautoml"}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "type": "kubernetes.io/tls",
        "data": data,
    }


def _find(connection: Connection, path: str) -> Manifest | None:
    try:
        return _send(connection, Request("get", "Secret", "GET", path))
    except NotFound:
        return None


def _send(connection: Connection, request: Request) -> Manifest:
    response = connection.send(request, _TIMEOUTS)
    try:
        answer = decoded(response.data)
    except urllib3.exceptions.HTTPError as error:
        raise connection.unreachable(error) from error
    if response.status >= 400:
        refused = error_of(response.status, answer, response.headers)
        if refused.reason != "Forbidden":
            raise refused
        raise ClusterError(
            f"{refused}; give this account the chart's role kubeautoml-certificate, or name a secret of yours in the chart's "
            "value studyServer.tls.existingSecret",
            reason=refused.reason,
        )
    return answer


def _data(secret: dict[str, Any]) -> dict[str, bytes]:
    return {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}
