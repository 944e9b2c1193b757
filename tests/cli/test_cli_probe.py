"""`kubeautoml probe`: what answers, what does not, and in whose words."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kubeautoml.api.errors import KubeAutoMLError, UsageError
from kubeautoml.cli.probe import main
from kubeautoml.study.database import open_backend
from kubeautoml.study.server import StudyServer


@pytest.fixture
def http() -> Iterator[str]:
    """/readyz answers ok from the second time on; /no never."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            is_ready = self.path == "/readyz" and len(asked) > 1
            self.send_response(200 if is_ready else 503)
            self.end_headers()
            self.wfile.write(b"ok\n" if is_ready else b"the watch has not begun\n")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class names it so)
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_server_that_becomes_ready_is_waited_for(http: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--patience", "30", f"{http}/readyz"]) == 0
    assert capsys.readouterr().out == f"{http}/readyz: ok\n"


def test_one_that_says_no_is_quoted(http: str) -> None:
    with pytest.raises(KubeAutoMLError, match="/no answers 503: the watch has not begun"):
        main([f"{http}/no"])


def test_a_study_server_is_asked_about_its_database(tmp_path: Path) -> None:
    server = StudyServer(open_backend(f"sqlite:///{tmp_path}/study.db"), "127.0.0.1:0")
    server.start()
    try:
        assert main([f"grpc://127.0.0.1:{server.port}"]) == 0
        server.is_ready.drain()
        with pytest.raises(KubeAutoMLError, match="answers, but its database does not"):
            main([f"grpc://127.0.0.1:{server.port}"])
    finally:
        server.stop()
    with pytest.raises(KubeAutoMLError, match="does not answer: UNAVAILABLE"):
        main([f"grpc://127.0.0.1:{server.port}"])


def test_nobody_there_and_no_url_are_told_apart() -> None:
    with pytest.raises(KubeAutoMLError, match=r"http://127\.0\.0\.1:9/readyz does not answer"):
        main(["http://127.0.0.1:9/readyz"])
    with pytest.raises(UsageError, match="must begin with http://, https://, grpc:// or grpcs://, got 'study:13000'"):
        main(["study:13000"])
