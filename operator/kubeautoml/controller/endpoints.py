"""Health and metrics over plain HTTP, in a thread of their own so that they answer while the event loop is busy."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from kubeautoml.api.errors import UsageError

Check = Callable[[], str | None]
"""What is wrong, in one line; None when all is well. Called in a thread of the server."""


class Endpoints:
    """Serves /healthz, /readyz and /metrics on each of the ports; a context manager.

    Args:
        ports: port 0 means any free one; see `ports` for what it became.
        why_unhealthy: why the process should be restarted; None while it should live on.
        why_unready: why the operator does not work; None while it does.

    Raises:
        UsageError: a port cannot be used.
    """

    def __init__(
        self,
        ports: set[int],
        registry: CollectorRegistry,
        why_unhealthy: Check,
        why_unready: Check,
        host: str = "",
    ) -> None:
        handler = _handler(registry, {"/healthz": why_unhealthy, "/readyz": why_unready})
        self._servers = [_listen(host, port, handler) for port in sorted(ports)]
        self.ports = [server.server_address[1] for server in self._servers]

    def __enter__(self) -> Self:
        for server in self._servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, name="endpoints", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


class _DualStackServer(ThreadingHTTPServer):
    """Listens on every address of the pod, be it of IPv4 or IPv6."""

    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def _listen(host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    server = _DualStackServer if not host and socket.has_dualstack_ipv6() else ThreadingHTTPServer
    try:
        return server((host, port), handler)
    except OSError as error:
        raise UsageError(f"port {port} cannot be used: {error.strerror}; set another metrics or health port") from error


def _handler(registry: CollectorRegistry, checks: dict[str, Check]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)
            elif path in checks:
                why_not = checks[path]()
                self._answer(503 if why_not else 200, f"{why_not or 'ok'}\n".encode(), "text/plain")
            else:
                self._answer(404, b"there are /healthz, /readyz and /metrics\n", "text/plain")

        def _answer(self, code: int, body: bytes, content_type: str) -> None:
            self.send_response(code)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class names it so)
            """Probes every few seconds are no news."""

    return Handler
