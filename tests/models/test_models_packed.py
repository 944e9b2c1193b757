"""Boosters are stored compressed, and damaged files are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.models.packed import read_packed, write_packed
from models.models_factories import make_context, make_real, parts_of

BOOSTERS = {"LightGBM": "lightgbm.txt.zst", "XGBoost": "xgboost.ubj.zst", "CatBoost": "catboost.cbm.zst"}


@pytest.mark.parametrize(("name", "file"), BOOSTERS.items())
@pytest.mark.parametrize("harm", ["cut off", "absent", "plain", "of another kind"])
def test_a_damaged_booster_is_refused_and_its_file_named(tmp_path: Path, name: str, file: str, harm: str) -> None:
    rows, schema = make_real("wine")
    train, valid, _ = parts_of(rows)
    family_named(name).fit(train, valid, schema, {}, make_context(schema)).model.save(tmp_path)
    stored = tmp_path / file
    if harm == "cut off":
        stored.write_bytes(stored.read_bytes()[:-40])
    elif harm == "absent":
        stored.unlink()
    elif harm == "plain":
        stored.write_bytes(read_packed(stored))
    else:
        write_packed(stored, b"no booster at all")

    # CatBoost's family takes a folder without its file for one that holds a constant
    expected = "dummy.json" if (name, harm) == ("CatBoost", "absent") else file.removesuffix(".zst")
    with pytest.raises(BundleError, match=expected):
        family_named(name).load(tmp_path)


@pytest.mark.parametrize(("name", "file"), BOOSTERS.items())
def test_a_booster_takes_at_most_half_of_what_its_library_writes(tmp_path: Path, name: str, file: str) -> None:
    rows, schema = make_real("diabetes")
    train, valid, _ = parts_of(rows)
    family_named(name).fit(train, valid, schema, {}, make_context(schema)).model.save(tmp_path)

    assert (tmp_path / file).stat().st_size < 0.5 * len(read_packed(tmp_path / file))
    assert [p.name for p in tmp_path.iterdir() if p.suffix in (".txt", ".ubj", ".cbm")] == []
