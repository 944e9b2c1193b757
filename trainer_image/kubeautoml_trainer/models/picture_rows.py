"""Rows as networks for pictures take them, the same for all families of them; without torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kubeautoml_trainer.data.base import Rows
from kubeautoml_trainer.features import Encoded, Features
from kubeautoml_trainer.models.picture_model import pictures_of


@dataclass(frozen=True)
class PictureRows:
    """Rows as networks for pictures take them: pictures object (n,), numbers float32 (n, k), and the rows they are of."""

    pictures: np.ndarray
    numbers: np.ndarray
    rows: Rows


def picture_rows(
    features: Features, x: Encoded, train: Rows, valid: Rows | None
) -> tuple[PictureRows, PictureRows | None]:
    """What is learned from, encoded already, and what it is judged by."""

    def of(encoded: Encoded, rows: Rows) -> PictureRows:
        return PictureRows(pictures_of(encoded), encoded.numbers.astype("float32"), rows)

    return of(x, train), None if valid is None else of(features.transform(valid.frame), valid)
