"""Where a control plane is looked for, and what is said when there is none."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from real.binaries import MissingBinaries, cache_folder, find_binaries

CHECKOUT = Path(__file__).resolve().parents[2]
WHOLE = ("kube-apiserver", "kube-controller-manager", "etcd")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A home without anything, and an empty PATH."""
    return {"HOME": str(tmp_path / "home"), "PATH": ""}


def make_folder(folder: Path, names: tuple[str, ...] = WHOLE) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("#!/bin/sh\necho Kubernetes v1.36.1\n")
        (folder / name).chmod(0o755)
    return folder


def make_archive(checkout: Path, tmp_path: Path) -> None:
    content = make_folder(tmp_path / "content")
    folder = checkout.parent / "shared" / "controlplane"
    folder.mkdir(parents=True)
    subprocess.run(["tar", "--zstd", "-cf", folder / "k.tar.zst", "-C", content, *WHOLE], check=True)


def test_the_places_are_tried_in_order(env: dict[str, str], tmp_path: Path) -> None:
    """KUBEBUILDER_ASSETS, then setup-envtest's newest, then the cache, then the archive beside the checkout."""
    checkout = tmp_path / "work" / "checkout"
    make_archive(checkout, tmp_path)
    unpacked = find_binaries(env, checkout).apiserver.parent
    envtest = Path(env["HOME"]) / ".local/share/kubebuilder-envtest/k8s"
    make_folder(envtest / "1.9.0-linux-amd64")
    newest = make_folder(envtest / "1.36.0-linux-amd64")
    assets = make_folder(tmp_path / "assets")

    assert unpacked == cache_folder(env)
    assert find_binaries(env, checkout).apiserver.parent == newest
    assert find_binaries({**env, "KUBEBUILDER_ASSETS": str(assets)}, checkout).apiserver.parent == assets


def test_an_incomplete_folder_is_passed_over(env: dict[str, str], tmp_path: Path) -> None:
    """envtest has no controller manager: then the next place is tried."""
    assets = make_folder(tmp_path / "assets", ("kube-apiserver", "etcd"))
    cache = make_folder(cache_folder(env))

    found = find_binaries({**env, "KUBEBUILDER_ASSETS": str(assets)}, tmp_path / "checkout")

    assert found.apiserver.parent == cache


def test_etcd_may_come_from_the_path(env: dict[str, str], tmp_path: Path) -> None:
    """Debian installs it as a package of its own."""
    make_folder(cache_folder(env), ("kube-apiserver", "kube-controller-manager"))
    system = make_folder(tmp_path / "bin", ("etcd",))

    assert find_binaries({**env, "PATH": str(system)}, tmp_path / "checkout").etcd == system / "etcd"


def test_nothing_found_says_what_is_missing_and_what_to_do(env: dict[str, str], tmp_path: Path) -> None:
    """The sentence that a failing test shows."""
    assets = make_folder(tmp_path / "assets", ("kube-apiserver",))

    with pytest.raises(MissingBinaries) as error:
        find_binaries({**env, "KUBEBUILDER_ASSETS": str(assets)}, tmp_path / "checkout")

    assert f"{assets} lacks kube-controller-manager and etcd" in str(error.value)
    assert "run scripts/control-plane" in str(error.value)


def test_the_version_is_the_server_s_own(env: dict[str, str]) -> None:
    """As its --version prints it."""
    make_folder(cache_folder(env))

    assert find_binaries(env, CHECKOUT).version() == (1, 36, 1)


def test_the_script_fetches_nothing_when_there_is_something(env: dict[str, str], tmp_path: Path) -> None:
    """It prints the folder and is done."""
    assets = make_folder(tmp_path / "assets")
    given = {**env, "PATH": os.environ["PATH"], "KUBEBUILDER_ASSETS": str(assets)}

    said = subprocess.run([CHECKOUT / "scripts" / "control-plane"], env=given, capture_output=True, text=True)

    assert (said.returncode, said.stdout, said.stderr) == (0, f"{assets}\n", "")
