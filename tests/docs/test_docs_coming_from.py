"""The manifests beside TPOT's and AutoKeras' own examples do what they say, with a smaller search and fewer rows."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cli.runs import COMMAND
from docs.markdown_files import ROOT, blocks_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PAGES = ROOT / "docs" / "coming-from"


def ours(page: str) -> dict[str, Any]:
    """The AutoMLJob of a page."""
    found = [yaml.safe_load(b.text) for b in blocks_of(PAGES / page) if b.language == "yaml"]
    return next(d for d in found if d["kind"] == "AutoMLJob")


def run(manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The finished object."""
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(manifest))
    places = ["--buckets", str(folder / "buckets"), "--workdir", str(folder / "work")]
    done = subprocess.run([*COMMAND, "run", "-f", str(file), *places, "-o", "json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    finished: dict[str, Any] = json.loads(done.stdout)
    return finished


def test_tpots_example_evolves_pipelines_and_writes_the_best_one_as_code(tmp_path: Path) -> None:
    """Boston housing as examples/boston.py writes it; generations, and nothing else, end the search."""
    manifest = ours("tpot.md")
    manifest["spec"]["search"]["sampler"] |= {"population": 2, "generations": 1}
    manifest["spec"]["search"]["families"] = {"include": ["Linear"]}
    manifest["spec"]["dataset"]["split"] |= {"folds": 2}
    lake = tmp_path / "buckets" / "lake" / "boston"
    subprocess.run(["python", str(ROOT / "examples" / "boston.py"), str(lake)], check=True, capture_output=True)

    finished = run(manifest, tmp_path)["status"]

    assert finished["trials"]["total"] == 4  # 2 x (1 + 1), as 300 is 50 x (5 + 1) on the page
    assert ours("tpot.md")["spec"]["budget"]["maxTrials"] == 50 * (5 + 1)
    code = Path(finished["artifacts"]["pipelineUri"].removeprefix("file://")).read_text()
    compile(code, "pipeline.py", "exec")
    assert finished["model"]["metrics"]["R2"]


def test_autokeras_example_reads_keras_own_file(tmp_path: Path) -> None:
    """An .npz file with x_train, y_train, x_test and y_test, named twice: the hold-out is x_test."""
    manifest = ours("autokeras.md")
    manifest["spec"]["budget"]["maxTrials"] = 2
    manifest["spec"]["dataset"]["split"] = {"folds": 2}
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = (rng.integers(0, 60, (90, 28, 28)) + 90 * (np.arange(28) // 10 == y[:, None, None])).astype(np.uint8)
    lake = tmp_path / "buckets" / "lake"
    lake.mkdir(parents=True)
    np.savez(lake / "mnist.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])

    finished = run(manifest, tmp_path)["status"]

    assert finished["budgetUsed"]["endedBy"] == "MaxTrials"
    assert float(finished["model"]["metrics"]["Accuracy"]) > 0.9
