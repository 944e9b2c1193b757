"""scripts/kind-quickstart as far as it goes without Docker: each command it would run is one that its program takes."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from docs.command_rules import _helm, _kubectl
from install.conftest import ROOT
from install.known_fields import problems
from security.pod_security import violations

SCRIPT = ROOT / "scripts" / "kind-quickstart"
RECORD = """#!/usr/bin/env bash
{ printf '%s ' "$(basename "$0")"; printf '%q ' "$@"; echo; } >> "$RECORD"
[ "$(basename "$0") ${1:-} ${2:-}" != "kind get clusters" ] || echo other
"""


def recorded(folder: Path, *arguments: str) -> list[list[str]]:
    """The commands of a run whose programs only write down what they were asked."""
    for name in ("docker", "kind", "kubectl", "helm"):
        (folder / name).write_text(RECORD)
        (folder / name).chmod(0o755)
    own = {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "RECORD": str(folder / "record"),
        "PYTHON": sys.executable,
    }
    done = subprocess.run(
        [str(SCRIPT), *arguments], env={**os.environ, **own}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in (folder / "record").read_text().splitlines()]


def test_every_command_is_one_that_its_program_takes(tmp_path: Path) -> None:
    """By kubectl's own help and the chart's own schema, in this order: cluster, images, storage, chart, job."""
    commands = recorded(tmp_path, "--local-images")

    said = [_kubectl(words) for name, *words in commands if name == "kubectl"]
    said += [_helm(words) for name, *words in commands if name == "helm"]
    assert [why for why in said if why] == []
    order = [name for name, *_ in commands]
    assert order.index("docker") < order.index("helm") and order[0] == "kind"
    targets = [words[words.index("--target") + 1] for name, *words in commands if name == "docker"]
    assert targets == ["operator", "trainer", "server"]
    assert commands[-1][-2:] == ["get", "automljobs,automlmodels"]


def test_its_cluster_is_deleted_by_name(tmp_path: Path) -> None:
    """And nothing else is asked for."""
    assert recorded(tmp_path, "--delete") == [["kind", "delete", "cluster", "--name", "kubeautoml"]]


@pytest.mark.parametrize("arguments", [["--lokal"], ["help"]])
def test_another_option_is_refused(arguments: list[str]) -> None:
    done = subprocess.run([str(SCRIPT), *arguments], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (
        2,
        f"kind-quickstart takes --local-images or --delete, got {arguments[0]}\n",
    )


def test_its_object_storage_is_valid_and_restricted() -> None:
    """And its keys are those of the job's secret."""
    objects = list(yaml.safe_load_all((ROOT / "examples" / "kind" / "object-storage.yaml").read_text()))

    assert [p for m in objects for p in problems(m)] == []
    [deployment] = [m for m in objects if m["kind"] == "Deployment"]
    assert violations(deployment["spec"]["template"]) == []
    [secret] = [m for m in objects if m["kind"] == "Secret"]
    [identity] = yaml.safe_load(secret["stringData"]["s3.json"])["identities"]
    for value in identity["credentials"][0].values():
        assert f"={value} " in SCRIPT.read_text() or f"={value}\n" in SCRIPT.read_text().replace(" \\\n", "\n")
