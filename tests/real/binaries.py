"""Where the binaries of a Kubernetes control plane are on this machine, in the order of preference.

Standard library only: `scripts/control-plane` runs this file with any Python 3.11 to learn whether it has anything to fetch.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

NEEDED = ("kube-apiserver", "kube-controller-manager", "etcd")
HOW_TO_GET_THEM = (
    "run scripts/control-plane, which unpacks, downloads or builds kube-apiserver, kube-controller-manager and etcd, "
    "or set KUBEBUILDER_ASSETS to a folder that holds them"
)
_CHECKOUT = Path(__file__).resolve().parents[2]


class MissingBinaries(RuntimeError):
    """No folder holds a whole control plane; says what was looked at and what to do."""


@dataclass(frozen=True)
class Binaries:
    """Paths of one control plane."""

    apiserver: Path
    controller_manager: Path
    etcd: Path

    def version(self) -> tuple[int, int, int]:
        """The API server's version, such as (1, 36, 0)."""
        said = subprocess.run([self.apiserver, "--version"], check=True, capture_output=True, text=True).stdout
        found = re.search(r"v(\d+)\.(\d+)\.(\d+)", said)
        if found is None:
            raise RuntimeError(f"{self.apiserver} --version must print a version, got {said!r}")
        major, minor, patch = (int(part) for part in found.groups())
        return major, minor, patch


def cache_folder(env: Mapping[str, str] = os.environ) -> Path:
    """Where archives are unpacked and `scripts/control-plane` puts what it fetches."""
    home = Path(env.get("HOME") or "~").expanduser()
    return Path(env.get("XDG_CACHE_HOME") or home / ".cache") / "kubeautoml" / "controlplane"


def find_binaries(env: Mapping[str, str] = os.environ, checkout: Path = _CHECKOUT) -> Binaries:
    """The first complete control plane; etcd may come from PATH.

    Raises:
        MissingBinaries: there is none.
    """
    looked = []
    for folder in _folders(env, checkout):
        found = {name: _find(name, folder, env) for name in NEEDED}
        missing = [name for name, path in found.items() if path is None]
        if not missing:
            return Binaries(*(path for name in NEEDED if (path := found[name]) is not None))
        if folder.is_dir():
            looked.append(f"{folder} lacks {' and '.join(missing)}")
    what = "; ".join(looked) or "no folder with them was found"
    raise MissingBinaries(f"tests marked controlplane need a Kubernetes control plane ({what}): {HOW_TO_GET_THEM}")


def _folders(env: Mapping[str, str], checkout: Path) -> Iterator[Path]:
    """DESIGN: KUBEBUILDER_ASSETS, setup-envtest (newest first), the cache, the archive beside the checkout."""
    if env.get("KUBEBUILDER_ASSETS"):
        yield Path(env["KUBEBUILDER_ASSETS"])
    home = Path(env.get("HOME") or "~").expanduser()
    data = Path(env.get("XDG_DATA_HOME") or home / ".local" / "share")
    yield from sorted((data / "kubebuilder-envtest" / "k8s").glob("*"), key=_numbers, reverse=True)
    cache = cache_folder(env)
    yield cache
    for archive in sorted((checkout.parent / "shared" / "controlplane").glob("*.tar.zst"), reverse=True):
        _unpack(archive, cache)
        yield cache


def _find(name: str, folder: Path, env: Mapping[str, str]) -> Path | None:
    inside = folder / name
    if os.access(inside, os.X_OK):
        return inside
    on_path = shutil.which("etcd", path=env.get("PATH")) if name == "etcd" else None
    return Path(on_path) if on_path else None


def _numbers(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", folder.name)]


def _unpack(archive: Path, folder: Path) -> None:
    """Into a neighbour first, then into place in one step: two sessions may do this at once."""
    if (folder / "kube-apiserver").exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f"{folder.name}.{os.getpid()}")
    fresh.mkdir()
    try:
        subprocess.run(["tar", "--zstd", "-xf", archive, "-C", fresh], check=True)
        folder.mkdir(exist_ok=True)
        for file in fresh.iterdir():
            file.rename(folder / file.name)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


if __name__ == "__main__":
    try:
        print(find_binaries().apiserver.parent)
    except MissingBinaries as error:
        sys.exit(str(error))
