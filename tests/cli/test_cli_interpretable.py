"""The Interpretable preset, from the manifest to a report that shows what was learned."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.runs import Place, make_rows

pytestmark = pytest.mark.slow


def test_the_interpretable_preset_ends_in_models_a_person_can_read(tmp_path: Path):
    """Only such families are tried, and the report shows the tables of the explainable one."""
    place = Place(tmp_path)
    place.write(
        make_rows(400),
        search={"preset": "Interpretable", "families": {"exclude": ["Linear"]}},
        budget={"maxTrials": 2, "maxDurationSeconds": 90},
    )

    ended = place.run("-o", "json")

    assert ended.code == 0, ended.err
    assert {t.params["family"] for t in place.trials()} == {"Dummy", "ExplainableBoosting"}
    (report,) = place.folder.rglob("report.html")
    page = report.read_text()
    assert "What the explainable model learned" in page
    assert "What age adds" in page and "log odds of yes" in page
