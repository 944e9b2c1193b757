"""A text is measured once for all pipelines of a model, and for all folds of a search."""

from __future__ import annotations

import numpy as np
import pytest

from kubeautoml_trainer.features import again, text_statistics
from kubeautoml_trainer.features.text_statistics import measured as kept_statistics

TEXTS = np.array(["Ab 12!", "", None, "  ", "Ab 12!", "one two"], dtype=object)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were measured, each time that they were."""
    seen: list[str] = []
    measure = text_statistics._statistics
    monkeypatch.setattr(text_statistics, "_statistics", lambda text: (seen.append(text), measure(text))[1])
    monkeypatch.setattr(text_statistics, "_measured", kept_statistics())
    monkeypatch.setattr(again, "_PROCESS", again._Process())
    return seen


def test_the_pipelines_of_a_model_measure_a_text_once(measured: list[str]) -> None:
    """Within one prediction; the next one begins anew, so that a server keeps nothing."""
    for _ in range(2):
        with again.one_prediction():
            first, second = (text_statistics.text_statistics(TEXTS) for _ in range(2))

            assert np.array_equal(first, second, equal_nan=True)
            assert first.shape == (6, 6) and np.isnan(first).all(axis=1).tolist() == [v is None for v in TEXTS]

    assert sorted(measured) == sorted(2 * ["", "  ", "Ab 12!", "one two"])


def test_a_process_that_fits_measures_a_text_once(measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fold after fold reads the same ones."""
    monkeypatch.setattr(again, "_PROCESS", again._Process(keeps=True))

    for _ in range(3):
        text_statistics.text_statistics(TEXTS)

    assert len(measured) == 4


def test_no_more_is_kept_than_allowed(measured: list[str]) -> None:
    """Later texts are measured every time, and right."""
    kept = kept_statistics(most=1)

    found = [kept.of(text) for text in ("a b", "A 1", "a b", "A 1")]

    assert measured == ["a b", "A 1", "A 1"]
    assert found[:2] == found[2:] and found[0] != found[1]
