"""A study server before its database: it says what is wrong, lives, and is ready when that has been mended."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from real.postgres import PostgresServer
from real.process import free_ports

pytestmark = pytest.mark.postgres


def asked(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def wait_until(holds: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@contextmanager
def server(url_file: Path, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    [port] = free_ports(1)
    flags = ["--database-url-file", str(url_file), "--listen", "127.0.0.1:0", "--metrics-port", str(port)]
    command = [sys.executable, "-m", "kubeautoml.study.server", *flags, "--start-patience", "inf"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        yield process, port
    finally:
        process.kill()
        process.wait(30)


def test_a_database_that_refuses_or_is_away_is_waited_for_by_name(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """No secret, nobody at the address, a database that is not there: each is said without the password; the file that
    names the right one is enough to go on, and the process is the same."""
    file, log = tmp_path / "url", tmp_path / "log"
    good = postgres_server.create_database()
    with server(file, log) as (process, port):
        wait_until(lambda: "url cannot be read" in asked(port, "/readyz")[1], log)
        assert asked(port, "/healthz") == (200, "ok\n")
        file.write_text("postgresql://u:hidden@127.0.0.1:9/d")
        wait_until(lambda: "u:***@127.0.0.1:9/d cannot be opened" in asked(port, "/readyz")[1], log)
        file.write_text(good.rpartition("/")[0] + "/nowhere")
        wait_until(lambda: "check host, port, user, password and database name" in asked(port, "/readyz")[1], log)
        assert asked(port, "/readyz")[0] == 503
        file.write_text(good + "\n")
        wait_until(lambda: asked(port, "/readyz") == (200, "ok\n"), log)
        assert process.poll() is None
    assert "hidden" not in log.read_text()
    assert log.read_text().count("trying again") < 10, "the same reason is not repeated every second"
