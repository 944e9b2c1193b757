"""`kubeautoml serve`: its life as a process, and what it says when it cannot start."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from containers.recipe import removed_from_server
from kubeautoml.api.names import Env
from kubeautoml.cli.main import main
from kubeautoml.storage import open_store, upload_folder
from kubeautoml_trainer.models import FAMILIES
from real.s3 import S3Server
from serve.asking import assert_same, from_records
from serve.bundles import Trained, train_every_type
from serve.running import Running, plain_environment, running


def wait_ready(url: str) -> None:
    """Until the model answers; the listener was announced a moment before."""
    transport = httpx.HTTPTransport(retries=5)
    with httpx.Client(transport=transport) as client:
        assert client.get(f"{url}/v2/health/ready", timeout=30).json() == {"ready": True}


def begin_request(server: Running, body: bytes) -> socket.socket:
    """Send the head of a request and wait until the server asks for the body."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    connection.sendall(head.encode())
    assert connection.recv(100).startswith(b"HTTP/1.1 100")
    return connection


def test_a_server_starts_answers_drains_on_sigterm_and_exits_with_0(churn: Trained, tmp_path: Path):
    """Predictions are the trainer's; a request in flight at SIGTERM is answered; nothing is printed but where it serves."""
    record = b'{"age": 42, "balance": 10.5, "plan": "pro", "active": true, "since": "2021-05-04", "note": "called"}'
    with running(str(churn.folder), tmp_path, "--sha256", churn.sha256, "--model-version", "v7") as server:
        wait_ready(server.url)
        answer = httpx.post(f"{server.url}/v1/predict", json=churn.records, timeout=30)
        in_flight = begin_request(server, record)

        server.process.send_signal(signal.SIGTERM)
        _wait_refused(server)
        in_flight.sendall(record)
        last = in_flight.recv(10_000)
        code = server.process.wait(timeout=30)

    assert_same(from_records(answer, churn.schema), churn.expected)  # type: ignore[arg-type]
    assert (answer.json()["model_name"], answer.json()["model_version"]) == ("churn", "v7")
    assert last.startswith(b"HTTP/1.1 200")
    assert code == 0
    assert server.log.read_text() == f"serving churn ({churn.folder}) on {server.url}\n"


def _wait_refused(server: Running) -> None:
    """Until the server takes no new connections."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.02)
    raise AssertionError("the server must stop listening within 30 s of SIGTERM")


@pytest.mark.s3
def test_a_model_in_a_bucket_is_served_with_the_keys_of_a_mounted_secret(
    churn: Trained, tmp_path: Path, s3_server: S3Server, s3_bucket: str, s3_credentials: Path
):
    """As the Deployment runs it: everything comes from the environment."""
    uri = f"{s3_bucket}models/churn"
    upload_folder(open_store(uri, s3_credentials), churn.folder, uri)
    env = {
        Env.OUTPUT_CREDENTIALS_DIR: str(s3_credentials),
        Env.MODEL_SHA256: churn.sha256,
        Env.MODEL_NAME: "from-a-bucket",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }

    with running(uri, tmp_path, env=env) as server:
        wait_ready(server.url)
        answer = httpx.post(f"{server.url}/v1/predict", json=churn.records, timeout=30)

    assert_same(from_records(answer, churn.schema), churn.expected)  # type: ignore[arg-type]
    assert answer.json()["model_name"] == "from-a-bucket"


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command in this process: no setting from outside, and its signal handler is taken back."""
    for name in Env:
        monkeypatch.delenv(name, raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> str:
    """The one line that the command ends with."""
    assert main(["serve", "--host", "127.0.0.1", *arguments]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.usefixtures("alone")
class TestRefusals:
    """Exit 1, one line, no traceback."""

    def test_a_missing_model(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        """Says where it looked."""
        said = refusal(capsys, "--port", "0", "--model", str(tmp_path / "none"))

        assert said == f"error: {tmp_path / 'none'} holds no bundle.json, so it is no model; check the path"

    def test_a_damaged_model(self, churn: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        """One changed byte is enough, and the file is named."""
        folder = tmp_path / "model"
        shutil.copytree(churn.folder, folder)
        file = next(p for p in sorted(folder.rglob("*")) if p.is_file() and p.parent.name == "0")
        file.write_bytes(file.read_bytes()[:-1] + b"?")

        said = refusal(capsys, "--port", "0", "--model", str(folder))

        assert said.startswith(f"error: {file} was changed or cut off since it was written")

    def test_another_model_than_the_digest_says(self, churn: Trained, capsys: pytest.CaptureFixture[str]):
        """--sha256 is the digest of bundle.json."""
        said = refusal(capsys, "--port", "0", "--model", str(churn.folder), "--sha256", "0" * 64)

        assert said.startswith(f"error: {churn.folder}/bundle.json must have sha256 {'0' * 64}, got {churn.sha256}")

    def test_a_port_in_use(self, churn: Trained, capsys: pytest.CaptureFixture[str]):
        """Found before the model is loaded."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            said = refusal(capsys, "--port", port, "--model", str(churn.folder))

        address = f"127.0.0.1:{port}"
        assert said == f"error: cannot listen on {address}: Address already in use; choose another --port or --host"

    def test_a_host_that_is_not_ours(self, churn: Trained, capsys: pytest.CaptureFixture[str]):
        """The same sentence."""
        said = refusal(capsys, "--host", "192.0.2.1", "--port", "0", "--model", str(churn.folder))

        assert said.startswith("error: cannot listen on 192.0.2.1:0: Cannot assign requested address")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "error: --model must name a bundle (or set KUBEAUTOML_MODEL_URI)"),
            (("--model", "m", "--port", "70000"), "error: --port must be between 0 and 65535, got 70000"),
        ],
    )
    def test_misuse(self, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]):
        """Exit 2, as every verb."""
        assert refusal(capsys, *arguments, code=2) == message


LIGHT = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[2:]))  # to import them fails
from pathlib import Path
from kubeautoml_trainer.serve import command
from kubeautoml_trainer.bundle import load_bundle
from kubeautoml_trainer.serve.app import create_app
from kubeautoml_trainer.serve.answers import Answers
from kubeautoml_trainer.serve.metrics import ServerMetrics
import uvicorn
model = load_bundle(sys.argv[1])
create_app(model, name="m", version="v1")
Answers(model, "m", "v1", ServerMetrics("m", "v1", "")).records(sys.stdin.buffer.read())
print(*sorted(name for name, module in sys.modules.items() if module))
"""


def test_the_server_loads_nothing_of_search_or_training(tmp_path: Path):
    """A member of every family is loaded and predicts without optuna, torch, or the trainer's other half, and where what the server's
    image does not have cannot be imported.
    """
    model = train_every_type(tmp_path, [f.name for f in FAMILIES], classes=True)
    record = httpx.Request("POST", "http://x", json=model.records[0]).content

    ran = subprocess.run(
        [sys.executable, "-c", LIGHT, str(model.folder), "sklearn", *removed_from_server()],
        input=record,
        capture_output=True,
        env=plain_environment(),
    )

    assert ran.returncode == 0, ran.stderr.decode()
    loaded = set(ran.stdout.decode().split())
    ours = {
        f"kubeautoml_trainer.{part}" for part in ("search", "ensemble", "report", "worker", "finalize", "artifacts")
    }
    foreign = {"optuna", "torch", "kopf", "kubernetes", "sqlalchemy", "grpc", "boto3"}
    assert "kubeautoml_trainer.serve.app" in loaded
    assert loaded & (ours | foreign | {"kubeautoml.study", "kubeautoml.controller", "kubeautoml.plan"}) == set()
