"""Fitted features: one object that turns typed rows into arrays, the same in training, prediction and the server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kubeautoml_trainer.features import categories as cats
from kubeautoml_trainer.features.arithmetic import Arithmetic
from kubeautoml_trainer.features.base import MISSING, Encoded, Recipe
from kubeautoml_trainer.features.char_grams import Grams
from kubeautoml_trainer.features.columns import Columns, columns_of
from kubeautoml_trainer.features.crosses import Crosses
from kubeautoml_trainer.features.datetimes import date_differences, datetime_parts
from kubeautoml_trainer.features.encoders import Embedding
from kubeautoml_trainer.features.groups import Groups
from kubeautoml_trainer.features.images import ImageFeatures
from kubeautoml_trainer.features.numbers import Scaling
from kubeautoml_trainer.features.polynomials import MAX_NUMBERS, products
from kubeautoml_trainer.features.target_means import OutOfFold, TargetMeans
from kubeautoml_trainer.features.text_statistics import text_statistics
from kubeautoml_trainer.features.texts import Text

_BLOCK = 65_536
"""Rows encoded at a time, so that what lies between input and output stays small."""

Part = slice | np.ndarray
"""Which rows: a slice, or int positions."""


@dataclass(frozen=True)
class Features:
    """Columns by kind, and what was learned about each; what a recipe does not ask for is None.

    origin: float64 (dates,), Unix seconds from which elapsed days count. indicators: intp, positions among numbers,
    then categories, of columns whose gaps become a 0/1 number. kept: intp, positions of the dense columns kept. grams: of each
    text, where the recipe wants runs of characters; their columns stand behind all words'. embeddings: of each
    text, where the recipe names an encoder.
    """

    recipe: Recipe
    numbers: tuple[str, ...]
    dates: tuple[str, ...]
    categories: tuple[str, ...]
    texts: tuple[str, ...]
    origin: np.ndarray
    levels: tuple[cats.Levels, ...]
    terms: tuple[Text, ...]
    images: tuple[str, ...] = ()
    pictures: tuple[ImageFeatures, ...] = ()
    indicators: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.intp))
    frequencies: cats.Frequencies | None = None
    crosses: Crosses | None = None
    means: TargetMeans | None = None
    arithmetic: Arithmetic | None = None
    groups: Groups | None = None
    scaling: Scaling | None = None
    kept: np.ndarray | None = None
    grams: tuple[Grams, ...] = ()
    embeddings: tuple[Embedding, ...] = ()

    def transform(self, frame: pd.DataFrame) -> Encoded:
        """Encode typed rows (`data.base.Rows.frame`); columns are found by name."""
        columns = columns_of(frame)
        return self.encode(columns, self.codes(columns), None)

    def codes(self, columns: Columns) -> np.ndarray:
        """int32 (n, categories)."""
        out = np.empty((len(columns), len(self.categories)), dtype=np.int32)
        for c, (name, levels) in enumerate(zip(self.categories, self.levels, strict=True)):
            out[:, c] = levels.codes(columns[name]) if columns.are_few else levels.codes_of(*columns.distinct(name))
        return out

    def encode(self, columns: Columns, codes: np.ndarray, own: OutOfFold | None) -> Encoded:
        """All rows as arrays. own: the training rows' own means of the target, when these are the training rows."""
        n = len(codes)
        numbers = self._block(columns, codes, slice(0, _BLOCK), own)
        if n > _BLOCK:
            whole = np.empty((n, numbers.shape[1]))
            whole[:_BLOCK] = numbers
            for first in range(_BLOCK, n, _BLOCK):
                part = slice(first, first + _BLOCK)
                whole[part] = self._block(columns, codes, part, own)
            numbers = whole
        strings = self._strings(columns) if self.recipe.categories == "strings" else None
        texts = np.stack([columns[c] for c in self.texts], axis=1) if self.recipe.text == "raw" and self.texts else None
        return Encoded(numbers, codes, strings, self._sparse(columns), self._pixels(columns, n), texts)

    def _block(self, columns: Columns, codes: np.ndarray, part: Part, own: OutOfFold | None) -> Any:
        """Numbers as the model takes them, float64 (rows of the part, k)."""
        dense = self.unscaled(columns, codes, part, own)
        if self.scaling is not None:
            dense = self.scaling.apply(dense)
        parts = [dense]
        if self.recipe.polynomial and 2 <= len(self.numbers) <= MAX_NUMBERS:
            parts.append(products(dense[:, : len(self.numbers)]))
        if self.recipe.categories == "onehot" and self.levels:
            parts.append(cats.one_hot(codes[part], self.levels))
        if self.recipe.categories == "joined":
            parts.append(codes[part])
        dense = _joined(parts)
        return dense if self.kept is None else dense[:, self.kept]

    def unscaled(self, columns: Columns, codes: np.ndarray, part: Part, own: OutOfFold | None) -> np.ndarray:
        """float64 (rows of the part, k) with NaN: numbers, dates, then what the recipe adds."""
        codes = codes[part]
        x = floats(columns, self.numbers, part, len(codes))
        parts = [x]
        if self.dates:
            seconds = floats(columns, self.dates, part, len(codes))
            parts.append(datetime_parts(seconds, self.origin, self.recipe.cyclic, self.recipe.calendar))
            if self.recipe.date_differences and len(self.dates) > 1:
                parts.append(date_differences(seconds))
        if len(self.indicators):
            parts.append(self._gaps(x, codes))
        if self.frequencies is not None:
            parts.append(self.frequencies.apply(codes))
        if self.means is not None:
            all_codes = codes if self.crosses is None else np.hstack([codes, self.crosses.apply(codes)])
            parts.append(self.means.apply(all_codes) if own is None else own.apply(all_codes, part))
        if self.arithmetic is not None:
            parts.append(self.arithmetic.apply(x))
        if self.groups is not None:
            parts.append(self.groups.apply(x, codes))
        for name, terms in zip(self.texts, self.terms, strict=True):
            values = columns[name][part]
            if self.recipe.text_statistics:
                parts.append(text_statistics(values))
            if self.recipe.text == "svd":
                parts.append(terms.numbers(values))
        for name, embedding in zip(self.texts, self.embeddings, strict=False):
            parts.append(embedding.numbers(columns[name][part]))
        parts += [p.numbers(columns[name][part]) for name, p in zip(self.images, self.pictures, strict=False)]
        return _joined(parts)

    def _gaps(self, x: np.ndarray, codes: np.ndarray) -> np.ndarray:
        of_numbers = self.indicators[self.indicators < len(self.numbers)]
        of_codes = self.indicators[len(of_numbers) :] - len(self.numbers)
        return np.hstack([np.isnan(x[:, of_numbers]), codes[:, of_codes] == MISSING]).astype(np.float64)

    def _sparse(self, columns: Columns) -> Any:
        if self.recipe.text != "sparse" or not self.texts:
            return None
        from scipy import sparse

        words = [t.matrix(columns[c]) for c, t in zip(self.texts, self.terms, strict=True)]
        grams = [g.matrix(columns[c]) for c, g in zip(self.texts, self.grams, strict=True)] if self.grams else []
        return sparse.hstack([*words, *grams], format="csr")

    def _strings(self, columns: Columns) -> np.ndarray:
        out = np.empty((len(columns), len(self.categories)), dtype=object)
        for k, name in enumerate(self.categories):
            out[:, k] = columns.strings(name)
        return out

    def _pixels(self, columns: Columns, n: int) -> np.ndarray | None:
        if self.recipe.images != "pixels":
            return None
        out = np.empty((n, len(self.images)), dtype=object)
        for k, name in enumerate(self.images):
            out[:, k] = columns[name]
        return out

    def save(self, folder: Path) -> None:
        """Write into the folder; floats survive to the last bit."""
        from kubeautoml_trainer.features.stored import save_features  # it knows this class

        save_features(self, folder)


def floats(columns: Columns, names: tuple[str, ...], part: Part, n: int) -> np.ndarray:
    """float64 (n, len(names)) of these rows; infinities become NaN."""
    out = np.empty((n, len(names)))
    for k, name in enumerate(names):
        out[:, k] = columns[name][part]
    infinite = np.isinf(out)
    if infinite.any():
        out[infinite] = np.nan
    return out


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    used = [p for p in parts if p.shape[1]]
    if not used:
        return parts[0]
    return np.asarray(used[0], dtype=np.float64) if len(used) == 1 else np.hstack(used, dtype=np.float64)
