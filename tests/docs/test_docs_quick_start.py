"""The first steps are followed word by word, with a smaller budget, in one shell: the quick start's and the README's."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from docs.first_steps import ENDPOINT, QUICK_START, README, free_port, in_one_shell, section, small_checkout
from docs.markdown_files import blocks_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TRAIN = "buckets/lake/titanic/train.csv"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for both chapters: the second one finds the job done that the first one ran, if it ran, and goes on from there."""
    folder = small_checkout(tmp_path_factory.mktemp("checkout"))
    (folder / "demo").mkdir()
    (folder / "buckets").mkdir()
    (folder / "demo" / "buckets").symlink_to(folder / "buckets")
    return folder


def answers(said: str) -> list[dict[str, Any]]:
    """Each line that is a JSON object."""
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def test_the_laptop_part_of_the_quick_start_does_what_it_says(checkout: Path) -> None:
    """From the data to an answer of the server, and on with what the page about the endpoint asks it."""
    chapter = section(QUICK_START, "On a laptop")

    done = in_one_shell([*chapter, *blocks_of(ENDPOINT)], checkout, free_port())

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    printed = next(b.text for b in chapter if b.language == "text")
    assert printed in done.stdout
    served, records, tensors, metadata, refused = answers(done.stdout)
    shown, error = (json.loads(b.text) for b in blocks_of(ENDPOINT) if b.language == "json")
    assert [served.keys(), records.keys()] == [shown.keys()] * 2
    assert [served["predictions"][0].keys(), records["predictions"][0].keys()] == [shown["predictions"][0].keys()] * 2
    assert [(o["name"], o["shape"]) for o in tensors["outputs"]] == [("survived_1", [2])]
    assert [i["name"] for i in metadata["inputs"]] == list(pd.read_csv(checkout / TRAIN, nrows=0).columns[:-1])
    assert refused == error
    with (checkout / "predictions.csv").open() as file:
        assert next(csv.reader(file)) == ["survived", "survived_0", "survived_1"]
    assert list(checkout.glob("buckets/models/team-a/default/titanic/*/report.html"))


def test_the_first_steps_of_the_readme_do_what_they_say(checkout: Path) -> None:
    """The chapter that runs a manifest by hand."""
    titles = re.findall(r"^## (.+)$", README.read_text(encoding="utf-8"), re.MULTILINE)
    chapters = [section(README, title) for title in titles]
    chapter = next(c for c in chapters if any("kubeautoml run -f" in b.text for b in c if b.language == "bash"))
    there = (checkout / "buckets" / "lake" / "titanic").exists()
    written_before = {"python examples/titanic.py": "true examples/titanic.py"} if there else {}

    done = in_one_shell(chapter, checkout, free_port(), written_before)

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
