"""Cluster names for the test kubelet's pods: a proxy for HTTP and gRPC clients (`http_proxy`, `grpc_proxy`) that knows Services.

Stands for cluster DNS and kube-proxy: NAME.NAMESPACE.svc[.cluster.local] becomes a ready pod that the Service selects, looked up
at every connection. What the client checks of the server's certificate is the name that it asked for.
"""

from __future__ import annotations

import itertools
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from real.kubelet import Kubelet

_HEAD_BYTES = 65536
_LOCAL = "127.0.0.1,localhost"


class NoEndpoint(RuntimeError):
    """No ready pod is behind the name."""


class Services:
    """Addresses of Services of one node."""

    def __init__(self, kubelet: Kubelet) -> None:
        self._kubelet = kubelet
        self._turn = itertools.count()

    def address(self, name: str, port: int) -> tuple[str, int]:
        """Where a connection to this name and port goes now; another pod every time.

        Raises:
            NoEndpoint: the Service is unknown or selects no ready pod, or has no such port.
        """
        service, namespace = (*name.split("."), "", "")[:2]
        found = self._kubelet.plane.admin.find(f"/api/v1/namespaces/{namespace}/services/{service}")
        ports = [p for p in (found or {}).get("spec", {}).get("ports", []) if p["port"] == port]
        if found is None or not ports:
            raise NoEndpoint(f"no Service {name} with port {port}")
        runners = self._kubelet.ready_runners(namespace, found["spec"].get("selector") or {})
        if not runners:
            raise NoEndpoint(f"no ready pod behind {name}")
        runner = runners[next(self._turn) % len(runners)]
        return runner.host, runner.port_number(ports[0].get("targetPort", port))


@contextmanager
def resolving_services(kubelet: Kubelet) -> Iterator[Services]:
    """Until the end, pods that start can dial Services by name."""
    services = Services(kubelet)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                _serve(self.request, services)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, name="services", daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        own = {"grpc_proxy": url, "http_proxy": url, "no_grpc_proxy": _LOCAL, "no_proxy": _LOCAL}
        kubelet.environment |= own
        try:
            yield services
        finally:
            kubelet.environment = {k: v for k, v in kubelet.environment.items() if k not in own}
            server.shutdown()


def _serve(client: socket.socket, services: Services) -> None:
    """Read the head of one request, connect, then pass bytes on in both directions until either side ends."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES:
        data = client.recv(4096)
        if not data:
            return
        head += data
    method, target, rest = head.split(b" ", 2)
    is_tunnel = method == b"CONNECT"
    parts = urlsplit(f"//{target.decode()}" if is_tunnel else target.decode())
    try:
        there = socket.create_connection(services.address(str(parts.hostname), parts.port or 80), timeout=5)
    except (NoEndpoint, KeyError, OSError) as error:
        client.sendall(f"HTTP/1.1 503 {error}\r\nContent-Length: 0\r\n\r\n".encode())
        return
    with there:
        there.settimeout(None)
        if is_tunnel:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            there.sendall(head.partition(b"\r\n\r\n")[2])
        else:
            there.sendall(b" ".join([method, (parts.path or "/").encode(), rest]))
        back = threading.Thread(target=_pump, args=(there, client), daemon=True)
        back.start()
        _pump(client, there)
        back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
