"""The way to the API server: its address, our credentials, and one request at a time. The only importer of `kubernetes`.

The official client finds and renews credentials (files, environment, exec plug-ins) and knows TLS; requests go through its
connection pool. Tokens and certificates are replaced in their files while we run: those that the server refuses are read
again, and the request is repeated once, since a refused one has done nothing.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlencode

import urllib3
from kubernetes import config
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException

from kubeautoml import __version__
from kubeautoml.api.errors import ClusterError
from kubeautoml.api.objects import Manifest
from kubeautoml.cluster.requests import RequestCounts

log = logging.getLogger(__name__)

POOL_SIZE = 32
"""Connections that are kept; more are made when they are needed."""

RENEWAL_SECONDS = 5.0
"""Credentials that the server refused are read again from their file no more often."""

JSON = "application/json"
_IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class Request:
    """What is sent; verb and kind are for counting."""

    verb: str
    kind: str
    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Manifest | None = None
    content_type: str = JSON
    accept: str = JSON

    @property
    def path_and_query(self) -> str:
        """The end of its URL; parameters that are None are left out."""
        given = {name: value for name, value in self.query.items() if value is not None}
        return self.path + (f"?{urlencode(given)}" if given else "")


class Connection:
    """An API server and who we are there. Threads share it.

    Args:
        credentials: reads address and credentials from where they are.
    """

    def __init__(self, credentials: Callable[[], Configuration], default_namespace: str) -> None:
        self.default_namespace = default_namespace
        """The namespace of the kubeconfig's context, or of this pod."""
        self.requests = RequestCounts()
        self._credentials = credentials
        self._renewal = threading.Lock()
        self._renewed_at = time.monotonic()
        self._api = _api_client(credentials())

    @classmethod
    def from_kubeconfig(cls, path: str | Path | None = None, context: str | None = None) -> Connection:
        """As kubectl finds its cluster: the file, else KUBECONFIG, else ~/.kube/config, else the cluster around this pod.

        Raises:
            ClusterError: there is none, or it is damaged; says which file.
        """
        file = _kubeconfig_files(path)
        is_there = any(map(os.path.exists, file.split(os.pathsep)))
        if path is None and context is None and _is_in_cluster() and not is_there:
            return cls.in_cluster()

        def credentials() -> Configuration:
            settings = _configuration()
            try:
                config.load_kube_config(file, context, settings, persist_config=False)
            except (config.ConfigException, OSError, ValueError) as error:
                raise _unusable(file, error) from error
            return settings

        try:
            contexts, active = config.list_kube_config_contexts(file)
        except (config.ConfigException, OSError, ValueError) as error:
            raise _unusable(file, error) from error
        chosen = next((c for c in contexts if c["name"] == context), active) or {}
        return cls(credentials, chosen.get("context", {}).get("namespace") or "default")

    @classmethod
    def in_cluster(cls) -> Connection:
        """As the service account of this pod.

        Raises:
            ClusterError: this process runs in no pod, or its token is not mounted.
        """

        def credentials() -> Configuration:
            settings = _configuration()
            try:
                config.load_incluster_config(settings)
            except (config.ConfigException, OSError) as error:
                raise _in_no_pod(error) from error
            return settings

        try:
            namespace = (_IN_CLUSTER / "namespace").read_text().strip()
        except OSError as error:
            raise _in_no_pod(error) from error
        return cls(credentials, namespace)

    def close(self) -> None:
        """End idle connections."""
        self._api.close()

    def send(
        self, request: Request, timeouts: tuple[float, float | None], *, retries: Literal[False] | None = None
    ) -> urllib3.BaseHTTPResponse:
        """Send it, and return the answer, whatever its status; its body is still to be read.

        Args:
            timeouts: seconds to connect, and of silence while an answer is read.
            retries: False for none at all.

        Raises:
            ClusterError: no answer.
        """
        api = self._api
        response = self._send(api, request, timeouts, retries)
        if response.status == 401 and self._renew(api):
            response.close()
            response = self._send(self._api, request, timeouts, retries)
        return response

    def unreachable(self, error: Exception) -> ClusterError:
        """What a broken connection is to our callers."""
        cause = getattr(error, "reason", None) or error
        return ClusterError(
            f"the API server at {self._api.configuration.host} does not answer: {cause}; check its address, "
            "certificate and the network"
        )

    def _send(
        self, api: ApiClient, request: Request, timeouts: tuple[float, float | None], retries: Literal[False] | None
    ) -> urllib3.BaseHTTPResponse:
        self.requests.add(request.verb, request.kind)
        headers = {"Accept": request.accept, "Content-Type": request.content_type}
        body = None if request.body is None else encoded(request.body)
        how: dict[str, Any] = {} if retries is None else {"retries": retries}
        try:
            _, _, headers, _, _ = api.param_serialize(
                request.method, request.path, header_params=headers, query_params=[], auth_settings=["BearerToken"]
            )
            timeout = urllib3.Timeout(connect=timeouts[0], read=timeouts[1])
            url = f"{api.configuration.host}{request.path_and_query}"
            response: urllib3.BaseHTTPResponse = api.rest_client.pool_manager.request(
                request.method, url, body=body, headers=headers, timeout=timeout, preload_content=False, **how
            )
        except urllib3.exceptions.ReadTimeoutError as error:
            # Whatever swallowed this request may have swallowed the other sockets, too: the next ones are new.
            api.rest_client.pool_manager.clear()
            raise self.unreachable(error) from error
        except (urllib3.exceptions.HTTPError, ApiException, config.ConfigException, OSError) as error:
            raise self.unreachable(error) from error
        return response

    def _renew(self, refused: ApiClient) -> bool:
        """Read the credentials again; whether they may be others now."""
        with self._renewal:
            if self._api is not refused:
                return True
            if time.monotonic() - self._renewed_at < RENEWAL_SECONDS:
                return False
            self._renewed_at = time.monotonic()
            try:
                self._api = _api_client(self._credentials())
            except ClusterError as error:
                log.warning("credentials cannot be read again", extra={"error": str(error)})
                return False
        log.info("credentials read again")
        return True


def context_names(path: str | None = None) -> list[str]:
    """Contexts of the kubeconfig.

    Raises:
        ClusterError: there is none, or it is damaged.
    """
    file = _kubeconfig_files(path)
    try:
        contexts, _ = config.list_kube_config_contexts(file)
    except (config.ConfigException, OSError, ValueError) as error:
        raise _unusable(file, error) from error
    return [str(context["name"]) for context in contexts]


def _kubeconfig_files(path: str | Path | None) -> str:
    return str(path or os.environ.get("KUBECONFIG") or Path("~/.kube/config").expanduser())


def _api_client(settings: Configuration) -> ApiClient:
    api = ApiClient(settings)
    api.user_agent = f"kubeautoml/{__version__}"
    return api


class _Retry(urllib3.Retry):
    """Not after a long silence: one wait is enough for a caller."""

    def increment(self, method: str | None = None, url: str | None = None, *args: Any, **kwargs: Any) -> Self:
        error = kwargs.get("error")
        if isinstance(error, urllib3.exceptions.ReadTimeoutError):
            raise error
        return super().increment(method, url, *args, **kwargs)


def _configuration() -> Configuration:
    """Retries only where the request certainly did nothing, or may be repeated; a 429 is the caller's to wait for."""
    settings = Configuration()
    settings.keep_alive = True
    settings.connection_pool_maxsize = POOL_SIZE
    settings.retries = _Retry(
        total=3,
        connect=2,
        read=1,
        status=0,
        redirect=0,
        other=0,
        backoff_factor=0.1,
        allowed_methods=frozenset({"GET", "PATCH", "DELETE"}),
        respect_retry_after_header=False,
    )
    return settings


def _is_in_cluster() -> bool:
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (_IN_CLUSTER / "token").exists()


def _unusable(file: str, error: Exception) -> ClusterError:
    return ClusterError(
        f"kubeconfig {file} cannot be used: {error}; name another with --kubeconfig or KUBECONFIG",
        reason="InvalidKubeconfig",
    )


def _in_no_pod(error: Exception) -> ClusterError:
    return ClusterError(
        f"no API server is known to this process: {error}; run it in a pod with a service account token, "
        "or name a kubeconfig",
        reason="InvalidKubeconfig",
    )


_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def encoded(body: object) -> bytes:
    """JSON that is YAML, too, since servers read what is applied as YAML: signs beyond 16 bits must stand as they are, where
    JSON would write two escapes, and signs that YAML does not print must be escapes.
    """
    text = json.dumps(body, ensure_ascii=False)
    return _NOT_IN_YAML.sub(lambda sign: f"\\u{ord(sign[0]):04x}", text).encode()
