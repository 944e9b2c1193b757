"""constraints.txt: names one version of everything that is ever installed, so that an image of today can be built next year."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from containers.recipe import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PINS = {canonicalize_name(line.partition("==")[0]): Version(line.partition("==")[2]) for line in LINES}

CUDA = ("cuda-", "nvidia-", "triton")
"""A build of torch for GPUs brings these, and names their versions itself."""


def wanted(extra: str) -> list[Requirement]:
    """What an extra asks for, with the extras that it is made of."""
    found = [Requirement(r) for r in [*PROJECT["project"]["dependencies"], *EXTRAS[extra]]]
    own = [r for r in found if r.name == "kubeautoml"]
    return [r for r in found if r.name != "kubeautoml"] + [x for r in own for name in r.extras for x in wanted(name)]


def closure(roots: list[Requirement]) -> set[str]:
    """Names of all distributions that these bring, by the metadata of those that are installed."""
    seen: set[tuple[str, str]] = set()
    left = [(r.name, extra) for r in roots for extra in ("", *r.extras)]
    while left:
        name, extra = left.pop()
        if (canonicalize_name(name), extra) in seen:
            continue
        seen.add((canonicalize_name(name), extra))
        for text in distribution(name).requires or ():
            needed = Requirement(text)
            if needed.name.startswith(CUDA):
                continue
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                left += [(needed.name, e) for e in ("", *needed.extras)]
    return {name for name, _ in seen}


@pytest.mark.parametrize("extra", EXTRAS)
def test_all_that_an_extra_brings_has_a_version(extra: str):
    """Also what its packages bring themselves."""
    assert closure(wanted(extra)) - PINS.keys() == set()


def test_all_that_development_and_building_bring_has_a_version():
    """The dev group, and what the Dockerfile builds the wheel and the bill of materials with."""
    roots = [
        Requirement(r)
        for r in [*PROJECT["dependency-groups"]["dev"], *PROJECT["build-system"]["requires"], "cyclonedx-bom"]
    ]

    assert closure(roots) - PINS.keys() == set()


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_versions_are_allowed(extra: str):
    """Each is what pyproject.toml asks for."""
    assert {r.name: str(r.specifier) for r in wanted(extra) if PINS[canonicalize_name(r.name)] not in r.specifier} == {}


def test_each_line_is_one_version_and_the_lines_are_sorted():
    """One line a package; by its name, as a person looks for it."""
    assert [line for line in LINES if line.count("==") != 1 or line != line.strip()] == []
    assert len(PINS) == len(LINES)


def test_what_is_installed_here_is_what_is_named():
    """The tests run what the images hold."""
    other = {}
    for name in closure([r for extra in EXTRAS for r in wanted(extra)]):
        try:
            found = Version(distribution(name).version)
        except PackageNotFoundError:
            continue
        if Version(found.public) != PINS[name]:
            other[name] = (str(found), str(PINS[name]))

    assert other == {}
