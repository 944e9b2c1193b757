"""The Dockerfile: clean, of the project's version, and true to what the commands and the servers are."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

from containers.recipe import DOCKERFILE, ROOT, TARGETS, instructions, script
from kubeautoml import __version__
from kubeautoml.api.names import SERVER_PORT
from kubeautoml.cli.main import EXTRAS, VERBS
from kubeautoml.controller.settings import OperatorSettings

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def of(stage: str, word: str) -> list[str]:
    """Arguments of a stage's instructions of one kind."""
    return [rest for where, what, rest in instructions() if (where, what) == (stage, word)]


def default(name: str) -> str:
    """Of an argument before the first FROM."""
    return next(rest for stage, word, rest in instructions() if not stage and rest.startswith(f"{name}=")).partition(
        "="
    )[2]


def test_hadolint_finds_nothing():
    """Rules that do not hold are left out by name, where they do not hold, with the reason beside."""
    done = subprocess.run(["hadolint", str(DOCKERFILE)], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "")


def test_the_version_is_the_projects():
    """One version for code, chart and all images."""
    charts = [line.partition(":")[2] for c in ROOT.glob("helm/*/Chart.yaml") for line in c.read_text().splitlines() if re.match("(app)?[vV]ersion:", line)]  # fmt: skip

    assert {default("VERSION"), PROJECT["version"], __version__, *(c.strip().strip("\"'") for c in charts)} == {
        __version__
    }


def test_python_is_the_one_that_the_tests_run_with():
    """The constraints are tried with it and no other."""
    assert default("PYTHON_IMAGE") == "docker.io/library/python:3.11-slim-bookworm"
    assert PROJECT["requires-python"] == ">=3.11"


@pytest.mark.parametrize("target", TARGETS)
def test_each_image_installs_its_extra_and_starts_a_verb_of_it(target: str):
    """The entry point is kubeautoml for all; what it does without arguments is a verb of that extra, or help."""
    (command,) = of(target, "CMD")
    (install,) = (run for run in of(f"{target}-packages", "RUN"))
    (verb,) = json.loads(command)

    assert json.loads(of("base", "ENTRYPOINT")[0]) == ["kubeautoml"]
    assert f"[{TARGETS[target]}]" in install
    assert f"slim packages /opt/kubeautoml {target} " in install
    assert verb == "--help" or verb in VERBS
    assert TARGETS[target] in PROJECT["optional-dependencies"]
    assert set(EXTRAS.values()) == {"serve", "trainer"}


def test_all_run_as_a_user_without_a_name_of_its_own():
    """A number, so that runAsNonRoot can be checked; the name beside it is for libraries that ask for one."""
    assert of("base", "USER") == ["65532:65532"]
    assert [stage for stage, word, _ in instructions() if word == "USER"] == ["base"]
    assert "LOGNAME=kubeautoml" in of("base", "ENV")[0]


@pytest.mark.parametrize(
    ("target", "url"),
    [
        ("operator", f"http://127.0.0.1:{OperatorSettings.health_port}/healthz"),
        ("server", f"http://127.0.0.1:{SERVER_PORT}/v2/health/live"),
    ],
)
def test_health_is_asked_where_it_is_served(target: str, url: str):
    """On the default port, by Python: there is no curl in the image."""
    (check,) = of(target, "HEALTHCHECK")
    program, flag, code = json.loads(check.partition("CMD ")[2])

    assert (program, flag) == ("python", "-c")
    assert f"'{url}'" in code
    compile(code, "HEALTHCHECK", "exec")


def test_the_trainer_has_no_health_check():
    """It listens to nobody."""
    assert of("trainer", "HEALTHCHECK") == ["NONE"]


@pytest.mark.parametrize("target", TARGETS)
def test_labels_say_what_an_image_is(target: str):
    """Those that the OCI names."""
    (labels,) = of(target, "LABEL")
    found = dict(word.partition("=")[::2] for word in shlex.split(labels))

    assert {name.removeprefix("org.opencontainers.image.") for name in found} == {
        "title", "description", "source", "licenses", "version", "revision", "created"
    }  # fmt: skip
    assert found["org.opencontainers.image.licenses"] == PROJECT["license"]
    assert found["org.opencontainers.image.version"] == "$VERSION"


def test_the_build_sees_what_it_copies_and_no_more():
    """.dockerignore lets in exactly the sources of COPY."""
    copied = {
        s
        for _, word, rest in instructions()
        if word == "COPY" and "--from=" not in rest
        for s in shlex.split(rest)[:-1]
    }
    seen = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    assert copied == seen
    assert all((ROOT / name).exists() for name in copied)


def test_the_script_builds_on_the_same_base():
    """`scripts/images` reads its name from the Dockerfile."""
    import sys

    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        images = script("images")
    finally:
        sys.path.remove(str(ROOT / "scripts"))

    assert images.base_image() == default("PYTHON_IMAGE")
    assert images.version() == __version__
    assert images.EXTRAS == TARGETS
    assert f"SOURCE_DATE_EPOCH={images.EPOCH}" in of("build", "ENV")[0]
    assert f'SOURCE_DATE_EPOCH: "{images.EPOCH}"' in (ROOT / ".github" / "workflows" / "images.yaml").read_text()


@pytest.mark.parametrize(
    "path", sorted(p for p in (ROOT / "scripts").iterdir() if p.is_file() and p.suffix != ".yaml"), ids=lambda p: p.name
)
def test_shell_scripts_are_clean(path: Path):
    """By shellcheck; programs in Python are checked with the rest of the code."""
    first = path.read_bytes().partition(b"\n")[0]
    if not first.endswith(b"bash"):
        assert b"python" in first or path.suffix == ".py"
        return
    done = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "")
