"""The kubelet's own HTTPS endpoint, as far as `kubectl logs` needs it: the API server asks it for a container's log."""

from __future__ import annotations

import json
import ssl
import threading
import time
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from real.kubelet import Kubelet


def serve_logs(kubelet: Kubelet) -> ThreadingHTTPServer:
    """Serve /containerLogs/<namespace>/<pod>/<container> on a free port, with the API server's certificate."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(url.query).items()}
            _, kind, *parts = url.path.split("/")
            try:
                runner = kubelet.runner(parts[0], parts[1])
            except (KeyError, IndexError):
                self.send_error(404)
                return
            if kind != "containerLogs":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            try:
                for data in _chunks(runner.log_file(parts[2]), query, lambda: runner.is_over):
                    self.wfile.write(data)
                    self.wfile.flush()
            except (BrokenPipeError, ConnectionResetError):
                return

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certs = kubelet.plane.ca_file.parent
    context.load_cert_chain(certs / "apiserver.crt", certs / "apiserver.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.1,), name="kubelet-logs", daemon=True).start()
    return server


def _chunks(file: Path, query: dict[str, str], is_over):  # type: ignore[no-untyped-def]
    """The log so far (or its last `tailLines`, or what is not older than `sinceSeconds`), then, with `follow`, what comes until the pod is over."""
    data = file.read_bytes() if file.exists() else b""
    position = len(data)
    if "sinceSeconds" in query:
        data = b"".join(_since(data.splitlines(keepends=True), time.time() - int(query["sinceSeconds"])))
    if "tailLines" in query:
        lines = data.splitlines(keepends=True)
        data = b"".join(lines[max(0, len(lines) - int(query["tailLines"])) :])
    yield data
    while query.get("follow") == "true":
        over = is_over()
        if file.exists():
            with file.open("rb") as open_file:
                open_file.seek(position)
                new = open_file.read()
            position += len(new)
            if new:
                yield new
        if over:
            return
        time.sleep(0.05)


def _since(lines: list[bytes], moment: float):  # type: ignore[no-untyped-def]
    """Lines from then on. There is no record of when each was written: ours say it themselves, others count as new."""
    for line in lines:
        try:
            written = datetime.fromisoformat(json.loads(line)["time"]).timestamp()
        except (ValueError, TypeError, KeyError):
            written = moment
        if written >= moment:
            yield line
