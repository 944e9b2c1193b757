"""The workflows of a public forge: valid, with as few rights as they need, and true to what is in the repository."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from containers.recipe import ROOT, instructions

FILES = sorted((ROOT / ".github" / "workflows").iterdir())
EVERY_FILE = pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
PINNED = re.compile(r"^[\w.-]+/[\w./-]+@(v\d+|[0-9a-f]{40})$")
"""Actions of others are named by major version, or by commit."""
STRANGERS = re.compile(r"\$\{\{[^}]*(github\.event\.|github\.head_ref)")
"""What somebody else can put words into; in a script they would be run."""


def read(file: Path) -> dict[Any, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def jobs(file: Path) -> dict[str, dict[str, Any]]:
    return read(file)["jobs"]


def steps(file: Path) -> Iterator[dict[str, Any]]:
    for job in jobs(file).values():
        yield from job.get("steps", ())


def scripts(file: Path) -> list[str]:
    """What the steps run."""
    return [step["run"] for step in steps(file) if "run" in step]


def shellcheck(script: str) -> str:
    """What shellcheck says; the forge's own expressions are words to it."""
    words = re.sub(r"\$\{\{.*?\}\}", "word", script)
    command = ["shellcheck", "--shell=bash", "--exclude=SC2034", "-"]
    return subprocess.run(command, input=words, capture_output=True, text=True).stdout


def test_all_that_a_forge_needs_is_there():
    """Tests, images, chart, end to end, release."""
    assert [f.name for f in FILES] == ["chart.yaml", "e2e.yaml", "images.yaml", "release.yaml", "tests.yaml"]


def test_workflows_have_the_shape_that_the_forge_reads():
    """By its own JSON schema, which check-jsonschema carries."""
    command = ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, FILES)]
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout


def test_zizmor_finds_nothing():
    """Ways for strangers into a workflow; what .github/zizmor.yml allows has its reason there."""
    settings = [
        "--offline",
        "--no-progress",
        "--min-severity",
        "medium",
        "--config",
        str(ROOT / ".github" / "zizmor.yml"),
    ]
    done = subprocess.run(["zizmor", *settings, str(ROOT / ".github" / "workflows")], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout


def test_updates_are_asked_for_in_the_form_that_the_forge_reads():
    """Actions, base image and packages."""
    file = ROOT / ".github" / "dependabot.yml"
    done = subprocess.run(
        ["check-jsonschema", "--builtin-schema", "vendor.dependabot", str(file)], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout
    assert {u["package-ecosystem"] for u in read(file)["updates"]} == {"github-actions", "docker", "pip"}


@EVERY_FILE
def test_each_job_says_what_it_may_and_when_it_ends(file: Path):
    """No right by default; a job that calls a workflow takes the time of the jobs there."""
    assert read(file)["permissions"] == {}
    assert "concurrency" in read(file)
    for name, job in jobs(file).items():
        assert "permissions" in job, name
        assert ("uses" in job) or 0 < job["timeout-minutes"] <= 90, name


@EVERY_FILE
def test_only_what_publishes_may_write(file: Path):
    """Packages and attestations where images and chart are pushed; contents where the page of a release is made."""
    writes = {
        (name, right)
        for name, job in jobs(file).items()
        for right, value in job["permissions"].items()
        if value == "write"
    }
    publishing = {"packages", "id-token", "attestations"}

    assert writes == {
        "chart": {("publish", r) for r in publishing},
        "images": {("build", r) for r in publishing},
        "release": {(name, r) for name in ("images", "chart") for r in publishing} | {("page", "contents")},
    }.get(file.stem, set())


@EVERY_FILE
def test_actions_of_others_are_pinned_and_ours_exist(file: Path):
    """By major version or commit; a called workflow is in this folder, and can be called."""
    for name in [s["uses"] for s in steps(file) if "uses" in s] + [
        j["uses"] for j in jobs(file).values() if "uses" in j
    ]:
        if name.startswith("./"):
            assert "workflow_call" in read(ROOT / name)[True], name  # `on` is a boolean to YAML
        else:
            assert PINNED.match(name), name
    assert all(
        s["with"]["persist-credentials"] is False
        for s in steps(file)
        if s.get("uses", "").startswith("actions/checkout@")
    )


@EVERY_FILE
def test_scripts_are_clean_and_run_nothing_that_strangers_wrote(file: Path):
    """By shellcheck; names of branches and titles of pull requests stay out of them."""
    for script in scripts(file):
        assert shellcheck(script) == ""
        assert not STRANGERS.search(script), script


@EVERY_FILE
def test_what_scripts_call_is_there(file: Path):
    """Targets of the Makefile, and programs in scripts/."""
    targets = set(re.findall(r"^([\w-]+)(?: [\w-]+)*:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    text = "\n".join(scripts(file))

    assert set(re.findall(r"(?:^|\s)make ([\w-]+)", text)) <= targets
    assert [p for p in re.findall(r"(?<![\w./-])scripts/[\w.-]+", text) if not (ROOT / p).is_file()] == []
    assert [
        p for p in re.findall(r"helm (?:lint --strict|package) (\S+)", text) if not (ROOT / p / "Chart.yaml").is_file()
    ] == []


@pytest.mark.parametrize("name", ["images", "e2e"])
def test_images_are_built_as_the_dockerfile_says(name: str):
    """Each target, with arguments that it has."""
    file = ROOT / ".github" / "workflows" / f"{name}.yaml"
    stages = {stage for stage, *_ in instructions()}
    arguments = {rest.partition("=")[0] for _, word, rest in instructions() if word == "ARG"}
    build = next(
        j
        for j in jobs(file).values()
        if any(s.get("uses", "").startswith("docker/build-push-action@") for s in j["steps"])
    )
    (step,) = (s for s in build["steps"] if s.get("uses", "").startswith("docker/build-push-action@"))
    matrix = build["strategy"]["matrix"]

    assert (
        {"operator", "server", "trainer"}
        == set(matrix.get("target") or [entry["target"] for entry in matrix["include"]])
        <= stages
    )
    assert {line.partition("=")[0] for line in step["with"].get("build-args", "").splitlines()} <= arguments


def test_pushed_images_carry_provenance_and_a_bill_of_materials():
    """Of the build, and signed by the forge."""
    steps_of = jobs(ROOT / ".github" / "workflows" / "images.yaml")["build"]["steps"]
    build = next(s for s in steps_of if s.get("id") == "push")["with"]

    assert (build["provenance"], build["sbom"]) == ("mode=max", True)
    assert any(s.get("uses", "").startswith("actions/attest-build-provenance@") for s in steps_of)


E2E = ROOT / "scripts" / "e2e"


def test_the_end_to_end_test_runs_the_readmes_manifest_with_the_projects_images():
    """Its files are here; its package has a version; its images are those of the Dockerfile."""
    text = E2E.read_text(encoding="utf-8")

    assert all((ROOT / name).exists() for name in re.findall(r"(?:examples|helm|scripts)/[\w./-]*\w", text))
    assert (
        "kubectl apply -f examples/titanic.yaml" in text and "examples/titanic.yaml" in (ROOT / "README.md").read_text()
    )
    assert {f"kubeautoml-{t}:$version" for t in ("operator", "trainer", "server")} <= set(
        re.findall(r"kubeautoml-\w+:\$version", text)
    )
    assert yaml.safe_load((ROOT / "examples" / "titanic.yaml").read_text())["metadata"]["name"] == "titanic"


def test_the_end_to_end_test_makes_the_secret_that_the_manifest_names():
    """With the keys and the address of the object storage that it installs."""
    text = E2E.read_text(encoding="utf-8").replace("\\\n", "")
    (command,) = re.findall(r"kubectl create secret generic (.*)", text)
    name, *literals = command.split()
    values = dict(one.removeprefix("--from-literal=").split("=", 1) for one in literals)
    documents = list(yaml.safe_load_all((ROOT / "examples" / "kind" / "object-storage.yaml").read_text()))
    (service,) = (d for d in documents if d["kind"] == "Service")
    (secret,) = (d for d in documents if d["kind"] == "Secret")
    ((keys,),) = (i["credentials"] for i in yaml.safe_load(secret["stringData"]["s3.json"])["identities"])
    manifest = yaml.safe_load((ROOT / "examples" / "titanic.yaml").read_text())

    assert name == manifest["spec"]["output"]["secretRef"]["name"]
    assert (values["AWS_ACCESS_KEY_ID"], values["AWS_SECRET_ACCESS_KEY"]) == (keys["accessKey"], keys["secretKey"])
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert values["AWS_ENDPOINT_URL"] == f"http://{host}:{service['spec']['ports'][0]['port']}"
    assert f"AWS_ACCESS_KEY_ID={keys['accessKey']} AWS_SECRET_ACCESS_KEY={keys['secretKey']} python" in text


def test_the_newest_four_versions_are_asked_for(tmp_path: Path):
    """From the page of the newest release down; here a program in curl's place answers."""
    curl = tmp_path / "curl"
    curl.write_text(
        '#!/bin/sh\nfor url; do :; done\ncase $url in */stable.txt) echo v1.37.2 ;; *) echo "v${url##*/stable-}" | sed s/.txt/.9/ ;; esac\n'
    )
    curl.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    said = subprocess.run(
        [str(ROOT / "scripts" / "kubernetes-versions")], capture_output=True, text=True, env=environment
    )

    assert said.stdout == '["1.37.9","1.36.9","1.35.9","1.34.9"]\n'
