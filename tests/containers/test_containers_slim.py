"""scripts/slim and scripts/sbom: what is taken out is not missed, what is left can be loaded, and the list of it is true."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from containers.recipe import ROOT, script

slim = script("slim")

CATBOOST = """
import sys
import numpy as np
import catboost
x = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
words = np.array([[b"one", b"two", b"three"][i % 3] for i in range(300)], dtype=object)[:, None]
pool = catboost.Pool(catboost.FeaturesData(x, words), (x[:, 0] + x[:, 1] > 0).astype(int))
model = catboost.CatBoost({"loss_function": "Logloss", "iterations": 20, "thread_count": 1, "logging_level": "Silent",
                           "allow_writing_files": False, "random_seed": 1})
model.fit(pool)
print(catboost.__file__, *model.predict(pool, prediction_type="Probability")[:50, 1])
"""


def run_python(code: str, path: Path | None = None) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(path or "")}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout.split()


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CatBoost without its CUDA kernels, in a folder of its own."""
    spec = importlib.util.find_spec("catboost")
    assert spec is not None and spec.submodule_search_locations is not None
    folder = tmp_path_factory.mktemp("cut")
    shutil.copytree(
        spec.submodule_search_locations[0], folder / "catboost", ignore=shutil.ignore_patterns("*hnsw*", "widget")
    )
    slim.cut_kernels(folder)
    return folder


def test_catboost_trains_and_predicts_the_same_without_its_cuda_kernels(cut: Path):
    """To the last digit, with numbers and with words."""
    whole, small = run_python(CATBOOST), run_python(CATBOOST, cut)

    assert small[0].startswith(str(cut)) and not whole[0].startswith(str(cut))
    assert len(small) == 51
    assert small[1:] == whole[1:]


def test_the_kernels_are_most_of_the_library(cut: Path):
    """Which is why they go: of 277 MB stay 40."""
    (library,) = cut.glob("catboost/_catboost*.so")

    assert library.stat().st_size < 60e6


def test_a_library_without_kernels_is_refused(cut: Path):
    """Nothing is cut twice, or out of another library."""
    (library,) = cut.glob("catboost/_catboost*.so")
    with pytest.raises((ValueError, struct.error)):
        slim.without_kernels(library.read_bytes())
    with pytest.raises(ValueError, match="not a 64-bit little-endian ELF file"):
        slim.without_kernels(b"MZ" + bytes(100))


def test_a_library_that_strip_spoils_is_left_as_it_was(tmp_path: Path):
    """As those that auditwheel has moved: the loader refuses segments that do not fit their pages."""
    (library,) = Path(importlib.util.find_spec("numpy").submodule_search_locations[0]).parent.glob(
        "numpy.libs/libgfortran*"
    )  # type: ignore[union-attr, index]
    shutil.copy(library, tmp_path)
    (tmp_path / "another_processor.so").write_bytes(b"\x7fELF\x01\x01" + bytes(100))
    slim.strip(tmp_path)

    assert (tmp_path / "another_processor.so").read_bytes() == b"\x7fELF\x01\x01" + bytes(100)
    assert slim._can_be_loaded((tmp_path / library.name).read_bytes())


def test_the_libraries_that_a_program_asks_for_are_found():
    """As ldd finds them; a script asks for none."""
    program = Path(sys.executable).resolve()
    said = subprocess.run(["readelf", "-d", str(program)], capture_output=True, text=True).stdout

    assert slim.needed_by(program) == re.findall(r"\(NEEDED\).*\[(.*)\]", said)
    assert slim.needed_by(ROOT / "scripts" / "demo") == []


def make_package(site: Path, name: str, files: dict[str, str]) -> None:
    """Code and metadata, as pip leaves them."""
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in [*files, f"{info.name}/METADATA"]))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The packages of an environment."""
    folder = tmp_path / "venv" / "lib" / "python3.11" / "site-packages"
    folder.mkdir(parents=True)
    make_package(
        folder, "thing", {"thing/__init__.py": "VALUE = 42\n", "thing/tests/test_it.py": "", "thing/it.pyi": ""}
    )
    make_package(folder, "kubeautoml", {"kubeautoml/__init__.py": "ours = 1\n", "kubeautoml/page.html": "<p>"})
    make_package(folder, "plotly", {"plotly/__init__.py": ""})
    make_package(
        folder,
        "botocore",
        {f"botocore/data/{s}/x.json": "" for s in ("s3", "ec2")} | {"botocore/data/endpoints.json": ""},
    )
    (folder / "pyarrow").mkdir()
    for name in ("libarrow.so", "libarrow.so.1"):
        (folder / "pyarrow" / name).write_bytes(b"the same")
    return folder


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and ".dist-info" not in str(p)}


def test_a_servers_packages_are_bytecode_without_what_nothing_uses(site: Path, monkeypatch: pytest.MonkeyPatch):
    """Tests, stubs, other services and plots are gone; our own sources stay beside the bytecode; equal files are one."""
    monkeypatch.setattr(slim, "strip", lambda site: None)
    slim.slim_packages(site.parents[2], "server")

    assert files(site) == {
        "thing/__init__.pyc",
        "kubeautoml/__init__.py",
        "kubeautoml/__pycache__/__init__.cpython-311.pyc",
        "kubeautoml/page.html",
        "botocore/data/s3/x.json",
        "botocore/data/endpoints.json",
        "pyarrow/libarrow.so",
        "pyarrow/libarrow.so.1",
    }
    assert (site / "pyarrow" / "libarrow.so.1").is_symlink()
    assert run_python("import thing; print(thing.VALUE)", site) == ["42"]
    assert sorted(p.name for p in site.glob("*.dist-info")) == [
        "botocore-1.0.dist-info", "kubeautoml-1.0.dist-info", "thing-1.0.dist-info"
    ]  # fmt: skip


def test_a_trainers_packages_keep_their_sources(site: Path, monkeypatch: pytest.MonkeyPatch):
    """Torch and transformers read them; plots are wanted there."""
    monkeypatch.setattr(slim, "strip", lambda site: None)
    slim.slim_packages(site.parents[2], "trainer")

    assert {"thing/__init__.py", "thing/__pycache__/__init__.cpython-311.pyc", "plotly/__init__.py"} <= files(site)


def test_bytecode_says_nothing_of_when_and_where_it_was_made(site: Path, tmp_path: Path):
    """Equal sources give equal bytes: an image can be built again."""
    source = site / "thing" / "__init__.py"
    made = []
    for second in (1_000_000_000, 1_500_000_000):
        os.utime(source, (second, second))
        slim.compiled(source, tmp_path / "made.pyc")
        made.append((tmp_path / "made.pyc").read_bytes())

    assert made[0] == made[1]


def test_our_own_packages_are_a_layer_of_their_own(site: Path, tmp_path: Path):
    """Moved to the same place under another folder."""
    slim.move_own(site.parents[2], tmp_path / "own")

    moved = tmp_path / "own" / site.relative_to("/")
    assert sorted(p.name for p in moved.iterdir()) == ["kubeautoml", "kubeautoml-1.0.dist-info"]
    assert not list(site.glob("kubeautoml*"))


def test_licences_stay(tmp_path: Path):
    """Who gives a package on gives its licence on."""
    doc = tmp_path / "usr" / "share" / "doc" / "thing"
    doc.mkdir(parents=True)
    for name in ("copyright", "changelog.gz", "README"):
        (doc / name).write_text("x")
    slim.remove_all(tmp_path, slim.ROOT)

    assert [p.name for p in doc.iterdir()] == ["copyright"]


def test_every_removal_has_its_reason():
    """One sentence each."""
    tables = [slim.EVERYWHERE, slim.ROOT, slim.STANDARD_LIBRARY, *slim.WITHOUT.values()]

    assert all(reason for table in tables for reason in table.values())
    assert slim.WITHOUT.keys() <= {"operator", "server", "trainer"}


STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u14
Description: the C library
 Status: not a field

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1
"""


def test_the_bill_of_materials_names_what_python_and_debian_brought(tmp_path: Path):
    """By package URL, with the image as its subject, and the same at every time."""
    venv.create(tmp_path / "venv", with_pip=False)
    (site,) = tmp_path.glob("venv/lib/python3*/site-packages")
    make_package(site, "kubeautoml", {"kubeautoml/__init__.py": ""})
    make_package(site, "thing", {"thing/__init__.py": ""})
    (tmp_path / "status").write_text(STATUS)
    made = []
    for name in ("a", "b"):
        arguments = [
            "kubeautoml-server",
            str(tmp_path / "venv"),
            str(tmp_path / "status"),
            str(tmp_path / name / "bill.json"),
        ]
        subprocess.run([sys.executable, str(ROOT / "scripts" / "sbom"), *arguments], check=True)
        made.append((tmp_path / name / "bill.json").read_text())
    bill = json.loads(made[0])

    assert made[0] == made[1]
    assert bill["bomFormat"] == "CycloneDX"
    assert (bill["metadata"]["component"]["name"], bill["metadata"]["component"]["version"]) == (
        "kubeautoml-server",
        "1.0",
    )
    assert sorted(c["purl"] for c in bill["components"]) == [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64", "pkg:pypi/kubeautoml@1.0", "pkg:pypi/thing@1.0"
    ]  # fmt: skip
