"""The two questions that the study server asks the API server: whose token is this, and whose pod is that?

A few lines over the standard library: the study must not know the operator's client, and needs no watch, no cache, no retry.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from kubeautoml.api.errors import ClusterError, UsageError

_MOUNTED = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class TokenUser:
    """Whom the API server says a token belongs to. Pod name and uid are empty for a token that is bound to none."""

    name: str
    pod_name: str = ""
    pod_uid: str = ""


@dataclass(frozen=True)
class KubeApi:
    """One API server. Token and authority are read for every request, as the kubelet rotates them. Threads may share it.

    Raises (every method):
        ClusterError: it did not answer, or refuses this server's own account.
    """

    url: str
    token_file: Path
    ca_file: Path

    @staticmethod
    def in_cluster(environment: Mapping[str, str] = os.environ) -> KubeApi:
        """As a pod finds it."""
        host, port = environment["KUBERNETES_SERVICE_HOST"], environment.get("KUBERNETES_SERVICE_PORT", "443")
        host = f"[{host}]" if ":" in host else host
        return KubeApi(f"https://{host}:{port}", _MOUNTED / "token", _MOUNTED / "ca.crt")

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "https" or not parts.hostname:
            raise UsageError(f"--api-server must be https://host:port, got {self.url!r}")

    def review(self, token: str, audience: str) -> TokenUser | None:
        """Who shows this token; None when it is false, expired, for somebody else, or its pod is gone."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        answer = self._ask("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body)
        status = (answer or {}).get("status") or {}
        # a server that knows no audiences names none: then the token was not made for us
        if not status.get("authenticated") or audience not in (status.get("audiences") or ()):
            return None
        user = status.get("user") or {}
        extra = user.get("extra") or {}
        name, uid = ((extra.get(f"authentication.kubernetes.io/{what}") or [""])[0] for what in ("pod-name", "pod-uid"))
        return TokenUser(str(user.get("username", "")), name, uid)

    def pod_metadata(self, namespace: str, name: str) -> dict[str, Any] | None:
        """A pod's metadata; None when there is no such pod."""
        pod = self._ask("GET", f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(name, safe='')}")
        return None if pod is None else dict(pod["metadata"])

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """The answer's object; None when it is 404."""
        parts = urlsplit(self.url)
        try:
            trust = ssl.create_default_context(cafile=str(self.ca_file))
            connection = http.client.HTTPSConnection(
                str(parts.hostname), parts.port or 443, timeout=_TIMEOUT_SECONDS, context=trust
            )
            headers = {
                "Authorization": f"Bearer {self.token_file.read_text().strip()}",
                "Content-Type": "application/json",
                "Accept": "application/json",
                "User-Agent": "kubeautoml-study-server",
            }
            try:
                connection.request(method, path, None if body is None else json.dumps(body), headers)
                response = connection.getresponse()
                status, data = response.status, response.read()
            finally:
                connection.close()
            if status == 404:
                return None
            if status >= 400:
                raise ClusterError(f"API server {self.url} answered {status} to {method} {path}")
            return dict(json.loads(data))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ClusterError(f"API server {self.url} did not answer: {type(error).__name__}: {error}") from error
