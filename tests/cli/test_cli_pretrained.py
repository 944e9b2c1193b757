"""Pretrained weights, from the manifest to predictions: a model learns with them, and wrong ones end the job at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cli.runs import Place, make_rows
from kubeautoml_trainer import load_model
from kubeautoml_trainer.pretrained import folder_digest
from models.foundation_factories import make_network, write_network

pytestmark = pytest.mark.slow


def make_place(folder: Path, sha256: str | None = None) -> Place:
    """A job that may use one family alone, which needs the weights beside the data."""
    place = Place(folder)
    weights = write_network(place.data.parent / "weights", make_network())
    given = {"family": "TabularFoundation", "uri": "s3://lake/weights/", "sha256": sha256 or folder_digest(weights)}
    place.write(
        search={"families": {"include": ["TabularFoundation"]}, "pretrained": [given]},
        budget={"maxTrials": 2, "maxDurationSeconds": 60},
        output={"uri": "s3://models/shop", "variants": ["Quality", "Balanced"]},
    )
    return place


def test_a_job_learns_with_weights_and_its_model_needs_none_of_its_surroundings(tmp_path: Path):
    """Both variants predict after weights and data are gone; the exported script fetches the weights itself."""
    place = make_place(tmp_path)

    ended = place.run("-o", "json")

    assert ended.code == 0, ended.err
    assert ended.job["status"]["best"]["family"] == "TabularFoundation"
    assert "a refit failed" not in ended.err
    (script,) = place.folder.rglob("pipeline.py")
    again = subprocess.run([sys.executable, str(script), str(place.data)], capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "RocAuc" in again.stdout, again.stderr
    for path in place.data.parent.rglob("*.*"):
        path.unlink()
    for variant in ("Quality", "Balanced"):
        found = load_model(ended.job["status"]["model"]["uri"], variant=variant).predict_frame(make_rows(50, seed=1))
        assert np.isfinite(found["bought_yes"]).all()


def test_weights_that_are_not_the_ones_meant_end_the_job_before_a_trial(tmp_path: Path):
    """The last line says where, what was expected, what was found, and what to do."""
    place = make_place(tmp_path, sha256=64 * "0")

    ended = place.run()

    assert ended.code != 0
    assert "spec.search.pretrained[0].sha256 must be the digest of file://" in ended.err
    assert "upload the weights again" in ended.err
    assert place.trials() == []
