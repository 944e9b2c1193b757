"""Planted credentials are found nowhere: a whole job on real servers, with refusals and outages on the way, and then a search.

The credentials are in Secrets, in files, and in the environment of operator and study server, as a platform team puts them
there. What is searched: every object of the namespace but the Secrets, Events, all logs, metrics, the bucket, and what the model
server answers to good and bad requests.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from chaos.world import _csv, table
from kubeautoml.api.rights import OPERATOR_ACCOUNT, OPERATOR_NAMESPACE
from kubeautoml.cluster.resources import RESOURCES
from real.controlplane import ControlPlane
from real.kubelet import Kubelet
from real.operator_process import OperatorProcess, running_operator
from real.process import dies_with_us, free_ports
from real.proxy import Mode, faulty_proxy
from real.s3 import S3Server

pytestmark = [
    pytest.mark.controlplane,
    pytest.mark.s3,
    pytest.mark.postgres,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

WRONG = "planted-wrong-s3-secret"
SESSION = "planted-session-token"
WRONG_PASSWORD = "planted-wrong-password"
TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}")
"""Any service account's token."""

PATIENCE_SECONDS = 240.0
SEARCHED = ("AutoMLJob", "AutoMLModel", "Pod", "Job", "Deployment", "Service", "Event", "NetworkPolicy", "ConfigMap")


def leaks(text: str, planted: dict[str, str]) -> list[str]:
    """Names of the planted credentials in a text, with what stands around them."""
    found = [f"{name}: ...{around(text, text.index(value))}..." for name, value in planted.items() if value in text]
    match = TOKEN.search(text)
    return [*found, *([f"a token: ...{around(text, match.start())}..."] if match else [])]


def around(text: str, position: int) -> str:
    return text[max(0, position - 150) : position + 20]


def test_the_search_finds_what_is_there() -> None:
    """Else that nothing was found says nothing."""
    assert leaks("key=planted", {"key": "planted"}) == ["key: ...key=planted..."]
    assert leaks("Bearer eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJl", {}) != []
    assert leaks("nothing", {"key": "planted"}) == []


@contextmanager
def study_server(plane: ControlPlane, database_url: str, folder: Path) -> Iterator[tuple[str, int, Path]]:
    """One that reviews tokens, with its log in a file: (URL, port of metrics, log)."""
    port, metrics_port = free_ports(2)
    url_file, token_file, log = folder / "database-url", folder / "api-token", folder / "study-server.log"
    url_file.write_text(database_url)
    token_file.write_text(plane.token(OPERATOR_NAMESPACE, "kubeautoml-study-server"))
    command = [sys.executable, "-m", "kubeautoml.study.server", "--database-url-file", str(url_file)]
    command += ["--listen", f"127.0.0.1:{port}", "--metrics-port", str(metrics_port), "--log-level", "debug"]
    command += ["--auth", "token-review", "--api-server", plane.server, "--api-ca-file", str(plane.ca_file)]
    command += ["--api-token-file", str(token_file)]
    command += ["--operator-account", f"system:serviceaccount:{OPERATOR_NAMESPACE}:{OPERATOR_ACCOUNT}"]
    with log.open("wb") as out:
        process = subprocess.Popen(dies_with_us(command), stdout=out, stderr=out)
    try:
        yield f"grpc://127.0.0.1:{port}", metrics_port, log
    finally:
        process.kill()
        process.wait(30)


def test_no_planted_credential_is_found_anywhere(
    control_plane: ControlPlane,
    kubelet: Kubelet,
    namespace: str,
    s3_server: S3Server,
    postgres_url: str,
    tmp_path: Path,
) -> None:
    """A job that succeeds while its database goes away, one with a wrong key, one that may not write."""
    planted = {
        "the S3 key": s3_server.secret_key,
        "the reader's S3 key": "reader-secret",
        "the wrong S3 key": WRONG,
        "the session token": SESSION,
        "the database's password": str(urlsplit(postgres_url).password),
        "the wrong password": WRONG_PASSWORD,
    }
    fill(control_plane, namespace, s3_server)
    database = urlsplit(postgres_url)
    token_file = tmp_path / "operator-token"
    token_file.write_text(control_plane.token(OPERATOR_NAMESPACE, OPERATOR_ACCOUNT, ["kubeautoml-study"]))
    with faulty_proxy(database.port or 0) as proxy:
        url = postgres_url.replace(f":{database.port}/", f":{proxy.port}/")
        with (
            study_server(control_plane, url, tmp_path) as (study_url, metrics_port, study_log),
            running_operator(
                control_plane,
                tmp_path / "operator.log",
                "-n",
                namespace,
                "--log-level",
                "debug",
                lease_namespace=namespace,
                study_url=study_url,
                KUBEAUTOML_STUDY_TOKEN_FILE=str(token_file),
            ) as operator,
        ):

            def explain() -> str:
                jobs = [
                    {m["metadata"]["name"]: m.get("status")} for m in objects(control_plane, namespace, "AutoMLJob")
                ]
                logs = [operator.log.read_text()[-4000:], study_log.read_text()[-2000:]]
                return "\n".join([json.dumps(jobs, indent=1), *logs, kubelet.all_logs(namespace)[-6000:]])

            for name in ("good", "wrong-key", "may-not-write"):
                create_job(control_plane, namespace, name)
            wait_until(lambda: trials(control_plane, namespace, "good") >= 1, "a completed trial", explain)
            proxy.set_mode(Mode.REFUSE)
            time.sleep(8)  # long enough for operator and workers to meet it
            proxy.set_mode(Mode.OPEN)
            for name, kind, status in (
                ("wrong-key", "Succeeded", "False"),
                ("may-not-write", "Succeeded", "False"),
                ("good", "Ready", "True"),
            ):
                wait_until(
                    lambda n=name, k=kind, s=status: condition(control_plane, namespace, n, k) == s,  # type: ignore[misc]
                    f"{name} {kind}={status}",
                    explain,
                )
            said = told(control_plane, kubelet, namespace, operator, metrics_port, study_log)
    said |= {"study server with a wrong password": refused_server(postgres_url)}
    said |= {f"s3://{b}/{key}": body for b in ("lake", "models") for key, body in stored(s3_server, b, namespace)}

    assert {where: found for where, text in said.items() if (found := leaks(text, planted))} == {}
    assert len([where for where in said if where.startswith("s3://models/")]) > 10
    assert said["pod logs"].strip() and said["operator log"].strip() and said["study server log"].strip()


def fill(plane: ControlPlane, namespace: str, s3: S3Server) -> None:
    """Data, and one secret for each way to go wrong."""
    for bucket in ("lake", "models"):
        s3.create_bucket(bucket)
    s3.client.put_object(Bucket="lake", Key=f"{namespace}/small.csv", Body=_csv(table()))
    reader = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "reader-secret"}
    wrong = {"AWS_SECRET_ACCESS_KEY": WRONG, "AWS_SESSION_TOKEN": SESSION}
    for name, changed in (("keys", {}), ("keys-of-reader", reader), ("keys-that-are-wrong", wrong)):
        secret = {"metadata": {"name": name}, "stringData": {**s3.settings, **changed}}
        plane.admin.post(f"/api/v1/namespaces/{namespace}/secrets", secret)


SECRETS = {
    "good": ("keys", "keys"),
    "wrong-key": ("keys-that-are-wrong", "keys"),
    "may-not-write": ("keys", "keys-of-reader"),
}
"""By job: what it reads with, what it writes with."""


def create_job(plane: ControlPlane, namespace: str, name: str) -> None:
    read, write = SECRETS[name]
    spec = {
        "task": {"type": "TabularClassification", "target": "good"},
        "dataset": {"train": {"uri": f"s3://lake/{namespace}/small.csv", "secretRef": {"name": read}}},
        "search": {"families": {"include": ["Linear", "ExtraTrees"]}},
        "budget": {"maxTrials": 6},
        "output": {"uri": "s3://models/leaks", "secretRef": {"name": write}},
        **({"serving": {"replicas": 1}} if name == "good" else {}),
    }
    manifest = {"apiVersion": "kubeautoml.dev/v1alpha1", "kind": "AutoMLJob", "metadata": {"name": name}, "spec": spec}
    plane.admin.post(RESOURCES["AutoMLJob"].path(namespace), manifest)


def objects(plane: ControlPlane, namespace: str, kind: str) -> list[dict[str, Any]]:
    return plane.admin.items(RESOURCES[kind].path(namespace))


def status_of(plane: ControlPlane, namespace: str, name: str) -> dict[str, Any]:
    return dict(plane.admin.get(RESOURCES["AutoMLJob"].path(namespace, name)).get("status", {}))


def trials(plane: ControlPlane, namespace: str, name: str) -> int:
    return int(status_of(plane, namespace, name).get("trials", {}).get("completed", 0))


def condition(plane: ControlPlane, namespace: str, name: str, kind: str) -> str | None:
    said = status_of(plane, namespace, name).get("conditions", [])
    return next((c["status"] for c in said if c["type"] == kind), None)


def told(
    plane: ControlPlane,
    kubelet: Kubelet,
    namespace: str,
    operator: OperatorProcess,
    metrics_port: int,
    study_log: Path,
) -> dict[str, str]:
    """All that a curious user, a log collector and a monitoring system get to see."""
    said = {f"{kind} objects": json.dumps(objects(plane, namespace, kind)) for kind in SEARCHED}
    said |= {
        "pod logs": kubelet.all_logs(namespace),
        "operator log": operator.log.read_text(errors="replace"),
        "operator metrics": operator.ask("/metrics")[1],
        "operator readiness": operator.ask("/readyz")[1],
        "study server log": study_log.read_text(errors="replace"),
        "study server metrics": ask(f"http://127.0.0.1:{metrics_port}/metrics"),
    }
    [server] = [p for p in objects(plane, namespace, "Pod") if p["metadata"]["labels"].get(COMPONENT) == "server"]
    host, port = kubelet.pod_address(namespace, server["metadata"]["name"])
    for path in ("/", "/docs", "/metrics", "/nonsense", "/v2/models/good", "/v2/models/other", "/openapi.json"):
        said[f"model server {path}"] = ask(f"http://{host}:{port}{path}")
    for body in (b"{", b"[]", b'[{"a": "x"}]', b'{"inputs": 1}'):
        said[f"model server, posted {body!r}"] = ask(f"http://{host}:{port}/v1/predict", body)
    pods = objects(plane, namespace, "Pod")
    assert {p["metadata"]["labels"][COMPONENT] for p in pods} == {"worker", "finalizer", "server"}
    assert [m for p in pods for m in mounts(p) if "kubernetes.io" in m] == [], (
        "admission mounts tokens where none is refused"
    )
    return said


COMPONENT = "kubeautoml.dev/component"


def mounts(pod: dict[str, Any]) -> list[str]:
    return [m["mountPath"] for c in pod["spec"]["containers"] for m in c.get("volumeMounts", [])]


def ask(url: str, body: bytes | None = None) -> str:
    """Body of the answer, whatever its status."""
    headers = {"Content-Type": "application/json"} if body is not None else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:
            return str(answer.read().decode(errors="replace"))
    except urllib.error.HTTPError as error:
        return str(error.headers) + error.read().decode(errors="replace")


def stored(s3: S3Server, bucket: str, namespace: str) -> Iterator[tuple[str, str]]:
    """Every object of this test, as text of one letter a byte, so that nothing in a binary file is hidden."""
    pages = s3.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    for key in (o["Key"] for page in pages for o in page.get("Contents", [])):
        if namespace in key:
            yield key, s3.client.get_object(Bucket=bucket, Key=key)["Body"].read().decode("latin-1")


def refused_server(postgres_url: str) -> str:
    """What a study server says whose database refuses its password."""
    url = postgres_url.replace(str(urlsplit(postgres_url).password), WRONG_PASSWORD)
    command = [sys.executable, "-m", "kubeautoml.study.server", "--database-url", url, "--listen", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1, done
    assert "password" in done.stderr
    return done.stdout + done.stderr


def wait_until(holds: Callable[[], bool], what: str, explain: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not happen: {explain()}"
        time.sleep(0.3)
