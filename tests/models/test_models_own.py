"""Families of other packages: found by being installed, searched, stored, served; and a sentence for each way to go wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from kubeautoml.api.errors import UsageError
from kubeautoml_trainer.models import FAMILIES, family_named, own_families
from kubeautoml_trainer.models.own import GROUP, MEMBERS, families_of

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "own-family"


def run(*command: str, path: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT / "operator"), str(ROOT / "trainer_image"), *([str(path)] if path else [])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=env)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built as a wheel and installed into a folder, as an image has it."""
    folder = tmp_path_factory.mktemp("own")
    offline = ["--no-deps", "--no-index", "-q", "--disable-pip-version-check"]
    run("-m", "pip", "wheel", "--no-build-isolation", *offline, "-w", str(folder / "dist"), str(EXAMPLE))
    (wheel,) = (folder / "dist").glob("*.whl")
    run("-m", "pip", "install", *offline, "--target", str(folder / "site"), str(wheel))
    return folder / "site"


@pytest.fixture(scope="module")
def finished(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A job that searches the example's family alone: its folder, and the job with its status."""
    folder = tmp_path_factory.mktemp("job")
    rows = [f"{i},{'xyz'[i % 3]},{'yes' if (i * 7 + i % 3) % 5 < 2 else 'no'}" for i in range(120)]
    (folder / "train.csv").write_text("\n".join(["number,letter,label", *rows]))
    job = {
        "apiVersion": "kubeautoml.dev/v1alpha1",
        "kind": "AutoMLJob",
        "metadata": {"name": "own"},
        "spec": {
            "task": {"type": "TabularClassification", "target": "label"},
            "dataset": {"train": {"uri": f"file://{folder}/train.csv"}},
            "search": {"families": {"include": ["Centroids"]}},
            "budget": {"maxTrials": 2, "maxDurationSeconds": 120},
            "workers": {"parallelism": 1},
            "output": {"uri": f"file://{folder}/out"},
        },
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    arguments = ["run", "-f", str(folder / "job.yaml"), "--workdir", str(folder / "run"), "-o", "json"]
    done = run("-m", "kubeautoml.cli.main", *arguments, path=installed)
    return folder, json.loads(done.stdout)


def test_a_job_searches_a_family_that_is_installed(finished: tuple[Path, dict]):
    """Workers find it, try it, and the finalizer makes a model of it."""
    status = finished[1]["status"]

    assert status["trials"]["completed"] == 2
    assert status["best"]["family"] == "Centroids"


LOAD = "import sys; from kubeautoml_trainer import load_model; print(len(load_model(sys.argv[1]).schema.features))"


def test_its_bundle_loads_where_the_package_is(finished: tuple[Path, dict], installed: Path):
    """A server whose image has the package, too."""
    uri = finished[1]["status"]["model"]["uri"]

    assert run("-c", LOAD, uri, path=installed).stdout == "2\n"


def test_its_bundle_says_what_is_missing_where_the_package_is_not(finished: tuple[Path, dict]):
    """The last line names the family and what to do."""
    done = run("-c", LOAD, finished[1]["status"]["model"]["uri"], check=False)

    assert done.stderr.splitlines()[-1].endswith(
        "got 'Centroids'; if it is of another package, install that package here too"
    )


def point(value: str, name: str = "mine") -> EntryPoint:
    return EntryPoint(name=name, value=value, group=GROUP)


def family(name: str = "PowerForest", **changes: object) -> SimpleNamespace:
    return SimpleNamespace(**(dict.fromkeys(MEMBERS) | {"name": name} | changes))


def given(monkeypatch: pytest.MonkeyPatch, *families: object) -> list[EntryPoint]:
    """Entry points that lead to these objects."""
    module = SimpleNamespace(**{f"f{i}": f for i, f in enumerate(families)})
    monkeypatch.setitem(sys.modules, "power_forest", module)
    return [point(f"power_forest:f{i}", f"mine{i}") for i in range(len(families))]


def test_a_class_and_an_object_are_families(monkeypatch: pytest.MonkeyPatch):
    """A class is called without arguments."""
    one, other = family("One"), type("Other", (), vars(family("Other")))

    assert [f.name for f in families_of(given(monkeypatch, one, other))] == ["One", "Other"]


@pytest.mark.parametrize(
    ("families", "words"),
    [
        (
            [SimpleNamespace(name="Bare", fit=None)],
            "but has no interpretable, relative_cost, fits, space, portfolio, load",
        ),
        ([family("power-forest")], "a family's name must be CamelCase, such as PowerForest, got 'power-forest'"),
        ([family("Linear")], "Linear is the name of one of kubeautoml's own families; rename it"),
        ([family("Twin"), family("Twin")], "Twin is the name of one of another package's families; rename it"),
    ],
)
def test_what_is_no_family_is_named(families: list[object], words: str, monkeypatch: pytest.MonkeyPatch):
    """With the entry point, the rule, and the value."""
    with pytest.raises(
        UsageError, match=r"^entry point mine\d = power_forest:f\d of a package \(kubeautoml.families\)"
    ) as raised:
        families_of(given(monkeypatch, *families), {"Linear"})

    assert str(raised.value).endswith(words)


def test_a_package_that_cannot_be_imported_is_named():
    """Whatever it raises."""
    with pytest.raises(UsageError) as raised:
        families_of([point("no_such_module_at_all:Family")])

    assert str(raised.value) == (
        "entry point mine = no_such_module_at_all:Family of a package (kubeautoml.families) cannot be loaded: "
        "No module named 'no_such_module_at_all'; mend the package or uninstall it"
    )


def test_nothing_else_is_looked_for_when_a_family_is_ours(monkeypatch: pytest.MonkeyPatch):
    """A broken package breaks only the jobs and bundles that name its family."""
    monkeypatch.setattr("kubeautoml_trainer.models.own_families", lambda: pytest.fail("looked for other packages"))

    assert [family_named(f.name).name for f in FAMILIES] == [f.name for f in FAMILIES]


def test_the_development_environment_has_no_others():
    """What is tested here is what a fresh clone has."""
    assert own_families() == ()
