"""Boosters are stored compressed, and damaged files are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.models.packed import read_packed, write_packed
from models.models_factories import make_context, make_real, parts_of

BOOSTERS = {"LightGBM": "lightgbm.txt.zst", "XGBoost": "xgboost.ubj.zst", "CatBoost": "catboost.cbm.zst"}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each family's model; not to be changed."""
    rows, schema = make_real("wine")
    train, valid, _ = parts_of(rows)
    folders = {name: tmp_path_factory.mktemp(name) for name in BOOSTERS}
    for name, folder in folders.items():
        family_named(name).fit(train, valid, schema, {}, make_context(schema)).model.save(folder)
    return folders


@pytest.mark.parametrize(("name", "file"), BOOSTERS.items())
@pytest.mark.parametrize("harm", ["cut off", "absent", "plain", "of another kind"])
def test_a_damaged_booster_is_refused_and_its_file_named(
    tmp_path: Path, stored: dict[str, Path], name: str, file: str, harm: str
) -> None:
    shutil.copytree(stored[name], tmp_path, dirs_exist_ok=True)
    booster = tmp_path / file
    if harm == "cut off":
        booster.write_bytes(booster.read_bytes()[:-40])
    elif harm == "absent":
        booster.unlink()
    elif harm == "plain":
        booster.write_bytes(read_packed(booster))
    else:
        write_packed(booster, b"no booster at all")

    # CatBoost's family takes a folder without its file for one that holds a constant
    expected = "dummy.json" if (name, harm) == ("CatBoost", "absent") else file.removesuffix(".zst")
    with pytest.raises(BundleError, match=expected):
        family_named(name).load(tmp_path)


@pytest.mark.parametrize(("name", "file"), BOOSTERS.items())
def test_a_booster_is_stored_compressed_and_once(stored: dict[str, Path], name: str, file: str) -> None:
    folder = stored[name]

    assert (folder / file).stat().st_size < 0.5 * len(read_packed(folder / file))
    assert [p.name for p in folder.iterdir() if p.suffix in (".txt", ".ubj", ".cbm")] == []
