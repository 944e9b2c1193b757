"""trainer_image/README.md: every file in it is one that works."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from containers.recipe import ROOT, instructions
from kubeautoml import __version__
from kubeautoml.api.profile import AutoMLProfile
from kubeautoml_trainer.models.own import GROUP, MEMBERS

TEXT = (ROOT / "trainer_image" / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_table_names_the_members_of_a_family():
    """Each of them, and no other."""
    assert re.findall(r"^\| `(\w+)", TEXT.partition("## The package names it")[0], flags=re.MULTILINE) == list(MEMBERS)


def test_the_entry_point_is_the_examples():
    """Word by word."""
    shown = tomllib.loads(blocks("toml")[0])["project"]["entry-points"]
    example = tomllib.loads((ROOT / "examples" / "own-family" / "pyproject.toml").read_text())["project"][
        "entry-points"
    ]

    assert shown == example and list(shown) == [GROUP]


def test_the_dockerfile_is_clean_and_made_from_our_images(tmp_path: Path):
    """By hadolint; on the Python and at the place of the images, with their version."""
    (text,) = blocks("dockerfile")
    (tmp_path / "Dockerfile").write_text(text)
    done = subprocess.run(["hadolint", str(tmp_path / "Dockerfile")], capture_output=True, text=True)
    (base,) = (rest for _, word, rest in instructions() if word == "ARG" and rest.startswith("PYTHON_IMAGE="))

    assert (done.returncode, done.stdout) == (0, "")
    python = re.search(r"FROM (python:\S+)", text)
    assert python is not None and base.endswith(f"/{python[1]}")
    assert set(re.findall(r"ghcr.io/kubeautoml/(kubeautoml-\w+:\S+)", text)) == {
        f"kubeautoml-{n}:{__version__}" for n in ("trainer", "server")
    }
    minor = re.search(r"python:(3\.\d+)", base)
    assert minor is not None and set(re.findall(r"/opt/kubeautoml/lib/(\S+)/site-packages", text)) == {
        f"python{minor[1]}"
    }


def test_the_profile_is_valid():
    """By the rules of the cluster."""
    profile = AutoMLProfile.model_validate(yaml.safe_load(blocks("yaml")[1]))

    assert profile.spec.images.server == "registry.example.com/server-with-centroids:1"


@pytest.mark.parametrize("words", re.findall(r"^\| `([^`]*(?:\.\.\.|package|rename)[^`]*)`", TEXT, flags=re.MULTILINE))
def test_the_messages_are_what_the_code_says(words: str):
    """Each part of one that does not depend on names stands in the code."""
    code = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "trainer_image").rglob("*.py"))
    parts = re.split(r"\.\.\.|'Centroids'|X is|spec\.search\.families|kubeautoml's own", words)

    assert [p for p in map(str.strip, parts) if len(p) > 12 and p.strip(" ,;:") not in code] == []
