"""Which columns of a table hold the paths of images."""

import numpy as np
import pandas as pd
import pytest

from kubeautoml_trainer.data import image_sources
from kubeautoml_trainer.data.image_sources import columns_of_paths

ROWS = 100_000
PATHS = [f"pictures/{k}.png" for k in range(ROWS)]


def sparse(values: list[str], filler: str | None) -> list[str | None]:
    """One value in a thousand is there, none of them where an even sample would look."""
    return [v if k % 1000 == 501 else filler for k, v in enumerate(values)]


def test_columns_are_found_by_most_of_what_they_hold():
    """Also where nearly all values are missing or blank; names of other files are no images."""
    some = np.random.default_rng(0).random(ROWS)
    frame = pd.DataFrame(
        {
            "path": PATHS,
            "upper": [p.upper() for p in PATHS],
            "mostly": [p if u < 0.95 else "lost" for p, u in zip(PATHS, some, strict=True)],
            "rarely": [p if u < 0.8 else "lost" for p, u in zip(PATHS, some, strict=True)],
            "missing": sparse(PATHS, None),
            "blank": sparse(PATHS, " "),
            "documents": [p.replace("png", "txt") for p in PATHS],
            "empty": [None] * ROWS,
        }
    )

    assert columns_of_paths(frame, frame.columns) == ["path", "upper", "mostly", "missing", "blank"]


@pytest.mark.parametrize("dtype", ["object", "string[pyarrow]"])
def test_a_long_table_without_images_is_hardly_looked_at(dtype: str, monkeypatch: pytest.MonkeyPatch):
    """Some values of each column tell; a million rows of fifty columns would take minutes."""
    looked = []
    is_image_name = image_sources.is_image_name
    monkeypatch.setattr(image_sources, "is_image_name", lambda text: looked.append(text) or is_image_name(text))
    frame = pd.DataFrame({f"word {k}": pd.Series([f"level {k}"] * ROWS, dtype=dtype) for k in range(5)})

    assert columns_of_paths(frame, frame.columns) == []
    assert len(looked) <= 5 * 60
