"""What `scripts/images` asks of a finished image: that it is as small and as closed as it should be, and that it does its work."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from image_box import Box, Buildah

from real.binaries import MissingBinaries
from real.controlplane import running_control_plane

ROOT = Path(__file__).resolve().parents[1]
USER = 65532
COMPILERS = re.compile(r"^(.*-)?(gcc|g\+\+|cc|c\+\+|clang|ld|as|make|rustc|go)(-[\d.]+)?$")
LABELS = ("title", "description", "source", "licenses", "version", "revision", "created")
OWN = {"PYTHONPATH": "/work/families"}
"""Where examples/own-family is installed for the trial, as an image that is made from ours has it among its packages."""
VERBS = {
    "operator": ("operator", "study-server", "crds", "rbac", "certificate", "probe"),
    "trainer": ("worker", "finalize", "run", "validate", "render", "predict", "serve"),
    "server": ("serve", "predict"),
}
"""What each image is started as, by the operator or the chart, or may be by a person."""
PORT = re.compile(r"(?<=127\.0\.0\.1:)\d+")


@dataclass(frozen=True)
class Sizes:
    """Of all layers of an image, in millions of bytes."""

    uncompressed_mb: float
    compressed_mb: float


def layer_sizes(buildah: Buildah, tag: str) -> Sizes:
    """As a registry would get them: written out, counted, removed."""
    folder = buildah.store / "pushed"
    buildah("push", tag, f"dir:{folder}", seconds=900)
    manifest = json.loads((folder / "manifest.json").read_text())
    compressed = uncompressed = 0
    for layer in manifest["layers"]:
        file = folder / layer["digest"].removeprefix("sha256:")
        compressed += layer["size"]
        with gzip.open(file) as content:
            while chunk := content.read(1 << 20):
                uncompressed += len(chunk)
    shutil.rmtree(folder)
    return Sizes(uncompressed / 1e6, compressed / 1e6)


def check_image(box: Box, target: str, version: str) -> None:
    """Its settings, and what must not be in it."""
    config = box.config
    assert config["User"] == f"{USER}:{USER}", config["User"]
    assert config["Entrypoint"] == ["kubeautoml"], config["Entrypoint"]
    missing = [name for name in LABELS if not config["Labels"].get(f"org.opencontainers.image.{name}")]
    assert not missing, f"{box.image} has no label {missing}"
    assert config["Labels"]["org.opencontainers.image.version"] == version
    assert bool(config.get("Healthcheck", {}).get("Test", ["NONE"]) != ["NONE"]) is (target != "trainer")
    for path in _files(box.root):
        where = path.relative_to(box.root)
        assert not COMPILERS.match(path.name) or path.parent.name not in ("bin", "sbin"), (
            f"{box.image} has a compiler: /{where}"
        )
        assert path.is_symlink() or not path.lstat().st_mode & 0o6000, (
            f"{box.image} lets others become somebody else: /{where}"
        )
        assert "pip" not in where.parts and not path.name.startswith("pip3"), (
            f"{box.image} has pip or its cache: /{where}"
        )
        assert target == "trainer" or "site-packages/torch/" not in str(where), f"{box.image} has torch: /{where}"
    _check_as_user(box, version)
    for verb in VERBS[target]:
        first = box.run("kubeautoml", verb, "--help").partition("\n")[0]
        assert first.startswith("usage: ") and f" {verb}" in first, first
    bill = json.loads((box.root / f"usr/share/sbom/kubeautoml-{target}.cdx.json").read_text())
    kinds = {c.get("purl", "").split("/")[0] for c in bill["components"]}
    assert {"pkg:pypi", "pkg:deb"} <= kinds, f"the bill of materials of {box.image} has only {sorted(kinds)}"


def _files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        yield from (Path(folder) / name for name in names)


def _check_as_user(box: Box, version: str) -> None:
    said = box.run("kubeautoml", "--version")
    assert said == f"kubeautoml {version}\n", said
    assert "usage: kubeautoml VERB" in box.run("kubeautoml", "--help")
    tries = "import os; print(os.getuid(), os.statvfs('/').f_flag & os.ST_RDONLY, os.access('/opt', os.W_OK), os.access('/tmp', os.W_OK))"
    said = box.run("python", "-c", tries)
    assert said == f"{USER} 1 False True\n", said


def try_operator(box: Box, store: Path) -> str:
    """Help, a study server, and the operator with its health check against a real API server, where there is one."""
    work = _writable(store / "operator")
    box = Box(box.image, box.root, box.config, {work: "/work"})
    study, metrics, health, probes = _free_ports(4)
    serve = ["kubeautoml", "study-server", "--database-url", "sqlite:////work/study.db", "--listen", f"127.0.0.1:{study}",
             "--metrics-port", str(metrics)]  # fmt: skip
    with box.running(*serve, log=work / "study.log") as server:
        _wait_for(lambda: _get(f"http://127.0.0.1:{metrics}/readyz"), server.poll, work / "study.log")
        try:
            with running_control_plane(ROOT / "crds") as plane:
                kubeconfig = plane.operator_kubeconfig().read_text().replace(str(plane.ca_file), "/work/ca.crt")
                (work / "kubeconfig").write_text(kubeconfig)
                shutil.copy(plane.ca_file, work / "ca.crt")
                ports = {"KUBEAUTOML_METRICS_PORT": str(probes), "KUBEAUTOML_HEALTH_PORT": str(health)}
                run = [
                    "kubeautoml",
                    "operator",
                    "--kubeconfig",
                    "/work/kubeconfig",
                    "--study-url",
                    f"grpc://127.0.0.1:{study}",
                ]
                with box.running(*run, log=work / "operator.log", env=ports) as operator:
                    _wait_for(lambda: _get(f"http://127.0.0.1:{health}/readyz"), operator.poll, work / "operator.log")
                    _check_health(box, health)
                    return f"ready before Kubernetes {'.'.join(map(str, plane.version))}, healthy by its own check; study server ready"
        except MissingBinaries as error:
            return f"study server ready; the operator was not started, since there is no API server here: {error}"


def _check_health(box: Box, port: int) -> None:
    """The image's own health check, on the port at hand: it succeeds there, and fails where nobody listens."""
    kind, *command = box.config["Healthcheck"]["Test"]
    assert kind == "CMD", kind
    (nobody,) = _free_ports(1)
    box.run(*(PORT.sub(str(port), word) for word in command), seconds=20)
    box.run(*(PORT.sub(str(nobody), word) for word in command), seconds=20, rc=1)


def try_job(box: Box, work: Path) -> str:
    """A job with real workers and a finalizer as processes of the image; where its model is goes into work/model.txt."""
    _writable(work)
    data = work / "buckets" / "lake" / "titanic"
    subprocess.run(
        [sys.executable, str(ROOT / "examples" / "titanic.py"), str(data)], check=True, stdout=subprocess.DEVNULL
    )
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-qq",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(work / "families"),
    ]
    subprocess.run([*install, str(ROOT / "examples" / "own-family")], check=True)
    job = yaml.safe_load((ROOT / "examples" / "titanic.yaml").read_text())
    job["spec"]["budget"] = {"maxTrials": 4, "maxDurationSeconds": 300}
    job["spec"]["search"] = {"families": {"include": ["Linear", "LightGBM", "Centroids"]}}
    job["spec"]["workers"]["parallelism"] = 1
    (work / "job.yaml").write_text(yaml.safe_dump(job))
    _writable(work)
    run = [
        "kubeautoml",
        "run",
        "-f",
        "/work/job.yaml",
        "--buckets",
        "/work/buckets",
        "--workdir",
        "/work/run",
        "-o",
        "yaml",
    ]
    box.run("sh", "-c", 'out=$1; shift; "$@" >"$out"', "sh", "/work/finished.yaml", *run, seconds=600, env=OWN)
    status = yaml.safe_load((work / "finished.yaml").read_text())["status"]
    assert status["trials"]["completed"] >= 3, status["trials"]
    assert "Centroids" in {entry["family"] for entry in status["leaderboard"]}, status["leaderboard"]
    (work / "model.txt").write_text(status["model"]["uri"].removeprefix("file://"))
    return f"{status['trials']['completed']} trials, a model with {status['best']['value']} (Roc AUC) of family {status['best']['family']}"


def try_models(trainer: Box, server: Box, work: Path) -> str:
    """A model of every family, trained by the one, served by the other: the same predictions; then the job's own model."""
    said = trainer.run(
        "python", "/scripts/image_models.py", "/tests", "/work/models", seconds=900, env={"OMP_NUM_THREADS": "1"}
    )
    families = [line for line in said.splitlines() if re.match(r"\w+: ", line)]  # beside what libraries say
    for line in families:
        name = line.partition(":")[0]
        folder = work / "models" / name
        records, expected = (json.loads((folder / f"{part}.json").read_text()) for part in ("records", "expected"))
        with _served(server, f"/work/models/{name}/model", work / f"{name}.log") as url:
            answer = _get(f"{url}/v1/predict", records)
            _compare(answer["predictions"], expected, name)
    rows = json.loads((work / "buckets" / "lake" / "titanic" / "sample.json").read_text())
    with _served(server, (work / "model.txt").read_text(), work / "served.log", env=OWN) as url:
        survived = [row["survived"] for row in _get(f"{url}/v1/predict", rows)["predictions"]]
    return f"{len(families)} models of all families predict as in the trainer; the job's model says {survived} for two people"


@contextmanager
def _served(box: Box, model: str, log: Path, env: Mapping[str, str] | None = None) -> Iterator[str]:
    (port,) = _free_ports(1)
    url = f"http://127.0.0.1:{port}"
    with box.running(
        "kubeautoml", "serve", "--model", model, "--host", "127.0.0.1", "--port", str(port), log=log, env=env
    ) as process:
        _wait_for(lambda: _get(f"{url}/v2/health/ready"), process.poll, log)
        _check_health(box, port)
        yield url


def _compare(found: list[dict[str, Any]], expected: list[dict[str, Any]], name: str) -> None:
    """Labels and numbers of the answer with the trainer's columns, the probabilities' columns being TARGET_CLASS."""
    assert len(found) == len(expected), (len(found), len(expected))
    for row, wanted in zip(found, expected, strict=True):
        flat = {
            f"{k}_{c}": p for k in row if k != "probabilities" for c, p in row.get("probabilities", {}).items()
        } | row
        for column, value in wanted.items():
            same = (
                math.isclose(flat[column], value, rel_tol=1e-5, abs_tol=1e-6)
                if isinstance(value, float)
                else flat[column] == value
            )
            assert same, f"{name}: {column} must be {value}, as in the trainer, and is {flat[column]}"


def _writable(folder: Path) -> Path:
    """A folder of this machine, with all that is in it, for the image's user."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, USER)
    return folder


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _get(url: str, body: Any = None) -> Any:
    """The answer to GET, or to POST with a body; JSON if it is JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read().decode()
    return json.loads(text) if text[:1] in ("{", "[") else text or True


def _wait_for(answers: Callable[[], Any], ended: Callable[[], int | None], log: Path, seconds: float = 120) -> None:
    """Until it answers.

    Raises:
        AssertionError: the process ended, or the time is over; with the last words of its log.
    """
    until = time.monotonic() + seconds
    while ended() is None and time.monotonic() < until:
        try:
            if answers():
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"nobody answered; the log ends with:\n{log.read_text(errors='replace')[-3000:]}")
