"""Whole jobs over images: `kubeautoml run`, its model, its report, its exported code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from cli.runs import Ended, Place
from data.data_factories import make_context
from images.image_factories import make_folders, make_image_job
from kubeautoml_trainer import load_model
from kubeautoml_trainer.data.prepare import prepare
from kubeautoml_trainer.search.plan import data_shape, search_plan
from kubeautoml_trainer.tasks.image import IMAGE_FAMILIES

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def small_example(place: Place, name: str, every: int) -> None:
    """An example's data, of which every so-manieth file stays, and its manifest with two quick families."""
    folder = place.folder / "buckets" / "lake" / name
    subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py"), str(folder)], check=True, capture_output=True
    )
    for number, file in enumerate(sorted(folder.rglob("*.png"))):
        if number % every:
            file.unlink()
    job = yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text())
    job["spec"]["search"] = {"families": {"include": ["Dummy", "Linear"]}}
    job["spec"]["budget"] = {"maxTrials": 2, "maxDurationSeconds": 120}
    job["spec"]["dataset"]["split"] = {"folds": 2}
    del job["spec"]["serving"]
    place.manifest.write_text(yaml.safe_dump(job))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Ended]:
    place = Place(tmp_path_factory.mktemp("digits"))
    small_example(place, "digits-images", every=3)
    return place, place.run("-o", "json")


def artifact(place: Place, name: str) -> Path:
    (found,) = (place.folder / "buckets" / "models").rglob(name)
    return found


def test_the_example_ends_with_a_model_of_images(finished: tuple[Place, Ended]):
    """From a folder a class to a model that reads the files' bytes."""
    place, ended = finished
    assert ended.code == 0, ended.err
    status = ended.job["status"]
    files = sorted((place.folder / "buckets" / "lake" / "digits-images" / "train").rglob("*.png"))[::20]

    model = load_model(status["model"]["uri"], sha256=status["model"]["sha256"])
    said = model.predict(pd.DataFrame({"image": [f.read_bytes() for f in files]}))

    assert float(status["model"]["metrics"]["Accuracy"]) > 0.9
    assert (said == [f.parent.name for f in files]).mean() > 0.9


def test_the_report_shows_the_worst_mistakes(finished: tuple[Place, Ended]):
    """Thumbnails in the page itself, with the truth and what was said; one a mistake."""
    place, ended = finished
    page = artifact(place, "report.html").read_text()
    wrong = round((1 - float(ended.job["status"]["model"]["metrics"]["Accuracy"])) * 120)

    shown = re.findall(
        r'<figure><img class="small" src="data:image/png;base64,[^"]+" alt=""><figcaption>is (\d)<br>said (\d) \(', page
    )

    assert 0 < len(shown) <= 24
    assert len(shown) == min(24, wrong)
    assert all(truth != said for truth, said in shown)


def test_the_exported_code_learns_from_the_folder_again(finished: tuple[Place, Ended], tmp_path: Path):
    """The same hold-out accuracy as the leaderboard says, and predictions of other files."""
    place, _ = finished
    folder = place.folder / "buckets" / "lake" / "digits-images" / "train"
    table = pd.read_csv(artifact(place, "leaderboard.csv"))
    wanted = float(table[table["family"] == "Linear"]["holdout_value"].iloc[0])
    command = [
        sys.executable,
        str(artifact(place, "pipeline.py")),
        str(folder),
        "--predict",
        str(folder / "3"),
        "--threads",
        "1",
    ]

    ran = subprocess.run(
        [*command, "--output", str(tmp_path / "out.csv")], capture_output=True, text=True, env=os.environ
    )

    assert ran.returncode == 0, ran.stderr
    assert float(re.search(r"^Accuracy ([\d.]+)$", ran.stdout, re.M)[1]) == pytest.approx(wanted, abs=1e-6)
    assert (pd.read_csv(tmp_path / "out.csv")["digit"] == 3).mean() > 0.9


def test_a_job_of_images_tries_what_suits_them(tmp_path: Path):
    """The quickest first; none of the families that need minutes for hundreds of numbers."""
    make_folders(tmp_path / "train", each=30)
    job = make_image_job(tmp_path)
    shape = data_shape(prepare(make_context(job, tmp_path)), job)

    plan = search_plan(job, shape)

    first = dict(reversed([(e.family, e.parameters) for e in plan.portfolio]))
    assert (shape.images, shape.features) == (1, 1)
    assert set(plan.families) <= set(IMAGE_FAMILIES)
    assert [e.family for e in plan.portfolio[:2]] == ["Dummy", "Linear"]
    assert first["LightGBM"]["feature_fraction"] == 0.1
    assert first["SupportVectors"]["scaling"] == "unscaled"
