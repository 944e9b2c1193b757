"""Fitted features: one object that turns typed rows into arrays, saved as `features.json` and, where needed,
`features.safetensors`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features import categories as cats
from kubeautoml_trainer.features import numbers as nums
from kubeautoml_trainer.features import texts as txt
from kubeautoml_trainer.features.base import Encoded, Recipe
from kubeautoml_trainer.features.datetimes import datetime_parts

FORMAT = 1
_JSON, _ARRAYS = "features.json", "features.safetensors"


@dataclass(frozen=True)
class Features:
    """Columns by kind, and what was learned about each."""

    recipe: Recipe
    numbers: tuple[str, ...]
    dates: tuple[str, ...]
    origin: np.ndarray
    categories: tuple[str, ...]
    levels: tuple[cats.Levels, ...]
    means: tuple[cats.TargetMeans, ...]
    texts: tuple[str, ...]
    fitted_texts: tuple[txt.Text, ...]
    scaling: nums.Scaling | None

    def transform(self, frame: pd.DataFrame) -> Encoded:
        """Encode typed rows (`data.base.Rows.frame`); columns are found by name."""
        codes = self._codes(frame)
        means = [m.means[codes[:, m.column]] for m in self.means]
        return self._assemble(frame, codes, means)

    def _codes(self, frame: pd.DataFrame) -> np.ndarray:
        if not self.categories:
            return np.zeros((len(frame), 0), dtype=np.int32)
        each = zip(self.categories, self.levels, strict=True)
        return np.stack([levels.codes(frame[name].to_numpy()) for name, levels in each], axis=1)

    def _assemble(self, frame: pd.DataFrame, codes: np.ndarray, means: list[np.ndarray]) -> Encoded:
        numbers = self._numbers(frame, means)
        if self.scaling is not None:
            numbers = self.scaling.apply(numbers)
        if self.recipe.categories == "onehot" and self.levels:
            numbers = np.hstack([numbers, cats.one_hot(codes, self.levels)])
        strings = _strings(frame, self.categories) if self.recipe.categories == "strings" else None
        return Encoded(numbers, codes, strings, self._sparse(frame))

    def _numbers(self, frame: pd.DataFrame, means: list[np.ndarray]) -> np.ndarray:
        """float64 (n, k), unscaled: numbers, parts of dates, means of the target, numbers of texts."""
        parts = [_floats(frame, self.numbers)] if self.numbers else []
        if self.dates:
            parts.append(datetime_parts(_floats(frame, self.dates), self.origin, self.recipe.cyclic))
        parts += means
        if self.recipe.text == "svd":
            parts += [t.numbers(frame[c].to_numpy()) for c, t in zip(self.texts, self.fitted_texts, strict=True)]
        if len(parts) == 1:
            return parts[0]
        return np.hstack(parts) if parts else np.zeros((len(frame), 0))

    def _sparse(self, frame: pd.DataFrame) -> Any:
        if self.recipe.text != "sparse" or not self.texts:
            return None
        from scipy import sparse

        each = zip(self.texts, self.fitted_texts, strict=True)
        return sparse.hstack([t.matrix(frame[c].to_numpy()) for c, t in each], format="csr")

    def save(self, folder: Path) -> None:
        """Write into the folder; floats survive to the last bit."""
        arrays = {f"text{k}": t.components for k, t in enumerate(self.fitted_texts) if t.components is not None}
        (folder / _JSON).write_text(json.dumps(_to_json(self), ensure_ascii=False, allow_nan=False), encoding="utf-8")
        if arrays:
            from safetensors.numpy import save_file

            save_file(arrays, str(folder / _ARRAYS))


def fit_features(recipe: Recipe, rows: Rows, schema: Schema, seed: int) -> tuple[Features, Encoded]:
    """Fit on these rows only; also returns the rows encoded (target means out of fold, which `transform` cannot
    give).
    """
    frame, names = rows.frame, _names_by_type(schema)
    dates = names[ColumnType.DATETIME]
    plain = Features(
        recipe=recipe,
        numbers=names[ColumnType.NUMBER],
        dates=dates,
        origin=np.nan_to_num(_columnwise_min(_floats(frame, dates))) if dates else np.zeros(0),
        categories=names[ColumnType.CATEGORY],
        levels=tuple(_fit_levels(recipe, frame[c].to_numpy()) for c in names[ColumnType.CATEGORY]),
        means=(),
        texts=names[ColumnType.TEXT],
        fitted_texts=tuple(
            txt.fit_text(frame[c].to_numpy(), recipe.text == "svd", seed) for c in names[ColumnType.TEXT]
        ),
        scaling=None,
    )
    codes = plain._codes(frame)
    means, own_means = _fit_means(recipe, plain.levels, codes, rows, schema, seed)
    unscaled = replace(plain, means=means)
    if recipe.scaling == "none":
        return unscaled, unscaled._assemble(frame, codes, own_means)
    fitted = replace(unscaled, scaling=nums.fit_scaling(unscaled._numbers(frame, own_means), recipe.scaling))
    return fitted, fitted._assemble(frame, codes, own_means)


def load_features(folder: Path) -> Features:
    """Read what `Features.save` wrote.

    Raises:
        BundleError: absent, damaged, or written by a newer version.
    """
    try:
        stored = json.loads((folder / _JSON).read_text(encoding="utf-8"))
        if stored.get("format") != FORMAT:
            raise BundleError(f"{_JSON}: format must be {FORMAT}, got {stored.get('format')!r}; upgrade kubeautoml")
        return _from_json(stored, _read_arrays(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{_JSON} cannot be read: {error!r}; the model is damaged, train it again") from error


def _read_arrays(folder: Path) -> dict[str, np.ndarray]:
    if not (folder / _ARRAYS).exists():
        return {}
    from safetensors.numpy import load_file

    return load_file(str(folder / _ARRAYS))


def _names_by_type(schema: Schema) -> dict[ColumnType, tuple[str, ...]]:
    """Booleans are numbers: typed rows hold them as 0 and 1."""
    names: dict[ColumnType, list[str]] = {t: [] for t in ColumnType}
    for column in schema.features:
        names[ColumnType.NUMBER if column.type is ColumnType.BOOLEAN else column.type].append(column.name)
    return {t: tuple(n) for t, n in names.items()}


def _fit_levels(recipe: Recipe, values: np.ndarray) -> cats.Levels:
    return cats.fit_levels(values, recipe.max_levels, recipe.min_level_rows)


def _fit_means(
    recipe: Recipe, levels: tuple[cats.Levels, ...], codes: np.ndarray, rows: Rows, schema: Schema, seed: int
) -> tuple[tuple[cats.TargetMeans, ...], list[np.ndarray]]:
    if recipe.target_means_above is None:
        return (), []
    targets = _targets(rows.y, schema)
    weight = np.ones(len(rows)) if rows.weight is None else rows.weight
    wide = [c for c, column in enumerate(levels) if len(column.levels) > recipe.target_means_above]
    size = {c: len(levels[c].levels) + 2 for c in wide}
    means = tuple(cats.fit_target_means(codes[:, c], c, size[c], targets, weight) for c in wide)
    return means, [cats.out_of_fold_means(codes[:, c], size[c], targets, weight, seed + c) for c in wide]


def _targets(y: np.ndarray, schema: Schema) -> np.ndarray:
    """float64 (n, t): the number; or which class, without the first (it follows from the others)."""
    if not schema.classes:
        return y.astype(np.float64)[:, None]
    return np.asarray(np.eye(len(schema.classes))[y][:, 1:])


def _floats(frame: pd.DataFrame, names: tuple[str, ...]) -> np.ndarray:
    """float64 (n, len(names)). Column by column: many times faster than `frame[list]` for a served row."""
    out = np.empty((len(frame), len(names)))
    for k, name in enumerate(names):
        out[:, k] = frame[name].to_numpy()
    return out


def _strings(frame: pd.DataFrame, names: tuple[str, ...]) -> np.ndarray:
    out = np.empty((len(frame), len(names)), dtype=object)
    for k, name in enumerate(names):
        out[:, k] = [v if isinstance(v, str) else "" for v in frame[name].to_numpy()]
    return out


def _columnwise_min(x: np.ndarray) -> np.ndarray:
    known = np.where(np.isnan(x), np.inf, x).min(axis=0)
    return np.where(np.isinf(known), 0.0, known)


def _to_json(f: Features) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "recipe": asdict(f.recipe),
        "numbers": f.numbers,
        "dates": f.dates,
        "origin": f.origin.tolist(),
        "categories": f.categories,
        "levels": [asdict(v) for v in f.levels],
        "means": [{"column": m.column, "means": m.means.tolist()} for m in f.means],
        "texts": f.texts,
        "terms": [{"vocabulary": list(t.vocabulary), "idf": [float(v) for v in t.idf]} for t in f.fitted_texts],
        "scaling": None
        if f.scaling is None
        else {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(f.scaling).items()},
    }


def _from_json(stored: dict[str, Any], arrays: dict[str, np.ndarray]) -> Features:
    return Features(
        recipe=Recipe(**stored["recipe"]),
        numbers=tuple(stored["numbers"]),
        dates=tuple(stored["dates"]),
        origin=np.asarray(stored["origin"], dtype=np.float64),
        categories=tuple(stored["categories"]),
        levels=tuple(cats.Levels(tuple(v["levels"]), v["gaps"], v["others"]) for v in stored["levels"]),
        means=tuple(cats.TargetMeans(m["column"], np.asarray(m["means"], dtype=np.float64)) for m in stored["means"]),
        texts=tuple(stored["texts"]),
        fitted_texts=tuple(
            txt.Text(
                {t: i for i, t in enumerate(v["vocabulary"])},
                np.asarray(v["idf"], dtype=np.float32),
                arrays.get(f"text{k}"),
            )
            for k, v in enumerate(stored["terms"])
        ),
        scaling=None if stored["scaling"] is None else _scaling(stored["scaling"]),
    )


def _scaling(stored: dict[str, Any]) -> nums.Scaling:
    def floats(name: str) -> np.ndarray:
        return np.asarray(stored[name], dtype=np.float64)

    def places(name: str) -> np.ndarray:
        return np.asarray(stored[name], dtype=np.intp)

    references = floats("references") if stored["quantile"] else np.zeros((0, 0))
    return nums.Scaling(
        floats("fill"),
        floats("center"),
        floats("scale"),
        places("gaps"),
        places("quantile"),
        references,
        stored["clip"],
    )
