"""Fitting features: from training rows and a recipe to `Features`, step by step; every step sees these rows only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kubeautoml.api.dataset import ColumnType
from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features import numbers as nums
from kubeautoml_trainer.features.again import keep_for_rows_that_come_again
from kubeautoml_trainer.features.arithmetic import fit_arithmetic
from kubeautoml_trainer.features.base import MISSING, Encoded, Recipe
from kubeautoml_trainer.features.cache import CACHE
from kubeautoml_trainer.features.categories import fit_frequencies, fit_levels
from kubeautoml_trainer.features.char_grams import fit_grams
from kubeautoml_trainer.features.choose import SAMPLE_ROWS, make_sample
from kubeautoml_trainer.features.columns import Columns
from kubeautoml_trainer.features.crosses import choose_crosses, fit_crosses
from kubeautoml_trainer.features.encoders import Embedding, EncodingTimeout, fit_embedding
from kubeautoml_trainer.features.fitted import Features, floats
from kubeautoml_trainer.features.groups import choose_groups, fit_groups
from kubeautoml_trainer.features.images import ImageFeatures
from kubeautoml_trainer.features.indicators import fit_indicators
from kubeautoml_trainer.features.selection import best_columns
from kubeautoml_trainer.features.target_means import (
    OutOfFold,
    fit_out_of_fold,
    fit_target_means,
    inner_folds,
    target_columns,
)
from kubeautoml_trainer.features.texts import fit_text

_CHOOSING_SHARE = 0.2  # of the time left, at most; a guess
_CHOOSING_SECONDS = 60.0  # without a deadline
_LEAST_CHOICE_ROWS = 20  # fewer tell nothing about which features matter; a guess
_GROUP_ROWS = 200_000  # enough for a category's mean and ranks
_MEAN_COLUMNS = 120  # means of crosses, all targets together; a guess that bounds width


@dataclass(frozen=True)
class _Training:
    """Training rows as the steps take them. targets: float64 (n, t). weight: float64 (n,)."""

    rows: Rows
    columns: Columns
    codes: np.ndarray
    sizes: list[int]
    targets: np.ndarray
    weight: np.ndarray
    seed: int
    deadline: float | None


def fit_features(
    recipe: Recipe, rows: Rows, schema: Schema, seed: int, deadline: float | None = None
) -> tuple[Features, Encoded]:
    """Fit on these rows only; also returns the rows encoded (target means out of fold, which `transform` cannot
    give).

    deadline: `time.monotonic()` that bounds the choice of features: it takes a fifth of what is left, at most, and
    keeps the best of what it has seen.
    """
    keep_for_rows_that_come_again()
    columns = tuple((c.name, c.type) for c in schema.features)
    key = (rows.identity, recipe, columns, seed)
    return CACHE.of(key, lambda: _fit(recipe, rows, schema, seed, deadline))


def _fit(recipe: Recipe, rows: Rows, schema: Schema, seed: int, deadline: float | None) -> tuple[Features, Encoded]:
    plain, columns = _plain(recipe, rows, schema, seed, deadline)
    codes = plain.codes(columns)
    training = _Training(
        rows=rows,
        columns=columns,
        codes=codes,
        sizes=[len(column.levels) + 2 for column in plain.levels],
        targets=target_columns(rows.y, len(schema.classes)),
        weight=np.ones(len(rows)) if rows.weight is None else rows.weight,
        seed=seed,
        deadline=deadline,
    )
    features = _with_counts(plain, training)
    if recipe.chooses and len(rows) >= _LEAST_CHOICE_ROWS:
        features = _with_chosen(features, training)
    features, own = _with_means(features, training)
    if recipe.scaling != "none":
        features = _with_scaling(features, training, own)
    encoded = features.encode(columns, codes, own)
    if recipe.keep_share < 1.0 and encoded.numbers.shape[1]:
        kept = best_columns(encoded.numbers, training.targets, training.weight, recipe.keep_share)
        return replace(features, kept=kept), replace(encoded, numbers=np.ascontiguousarray(encoded.numbers[:, kept]))
    return features, encoded


def _plain(recipe: Recipe, rows: Rows, schema: Schema, seed: int, deadline: float | None) -> tuple[Features, Columns]:
    """What needs no target: levels, terms, and where days begin."""
    names = _names_by_type(schema)
    dates, categories, texts = (names[t] for t in (ColumnType.DATETIME, ColumnType.CATEGORY, ColumnType.TEXT))
    columns = Columns(rows.frame)
    words, runs = _most_terms(recipe, len(texts))
    plain = Features(
        recipe=recipe,
        numbers=names[ColumnType.NUMBER],
        dates=dates,
        categories=categories,
        texts=texts,
        origin=np.array([_first(columns[c]) for c in dates], dtype=np.float64),
        levels=tuple(fit_levels(columns[c], recipe.max_levels, recipe.min_level_rows) for c in categories),
        images=names[ColumnType.IMAGE],
        pictures=_pictures(schema) if recipe.images == "features" else (),
        terms=tuple(fit_text(columns[c], recipe.text == "svd", seed, words) for c in texts),
        grams=tuple(fit_grams(columns[c], runs) for c in texts) if runs else (),
        embeddings=_embeddings(recipe, [columns[c] for c in texts], deadline),
    )
    return plain, columns


def _pictures(schema: Schema) -> tuple[ImageFeatures, ...]:
    found = [c for c in schema.features if c.type is ColumnType.IMAGE]
    return tuple(ImageFeatures(c.height or 1, c.width or 1, c.channels or 1) for c in found)


def _embeddings(recipe: Recipe, texts: Sequence[np.ndarray], deadline: float | None) -> tuple[Embedding, ...]:
    if not recipe.encoder:
        return ()
    try:
        return tuple(fit_embedding(values, recipe.encoder, recipe.encoder_numbers, deadline) for values in texts)
    except EncodingTimeout as error:
        from kubeautoml_trainer.models.base import FitTimeout  # it knows this package

        raise FitTimeout("no time for one look at all texts; give spec.budget.maxDurationSeconds more") from error


def _most_terms(recipe: Recipe, texts: int) -> tuple[int, int]:
    """Words and runs of characters that each text may have as columns."""
    if recipe.text in ("raw", "none"):
        return 0, 0
    if recipe.text == "svd":
        return recipe.most_terms, 0
    most = recipe.most_terms // max(1, texts)
    if recipe.terms == "words":
        return most, 0
    return (0, most) if recipe.terms == "characters" else (most // 4, most - most // 4)


def _with_counts(features: Features, t: _Training) -> Features:
    """Indicators of telling gaps, and frequencies of levels."""
    if features.recipe.indicators:
        gaps = [np.isnan(t.columns[n]) for n in features.numbers] + [c == MISSING for c in t.codes.T]
        features = replace(features, indicators=fit_indicators(gaps, t.targets, t.weight))
    if features.recipe.frequencies and t.sizes:
        features = replace(features, frequencies=fit_frequencies(t.codes, t.sizes))
    return features


def _with_chosen(features: Features, t: _Training) -> Features:
    """Arithmetic, groups and crosses, chosen on a sample of the rows."""
    recipe, now = features.recipe, time.monotonic()
    until = now + (_CHOOSING_SECONDS if t.deadline is None else _CHOOSING_SHARE * max(0.0, t.deadline - now))
    rng = np.random.default_rng(t.seed)
    picked = rng.permutation(len(t.rows))[:SAMPLE_ROWS]
    x = floats(t.columns, features.numbers, picked, len(picked))
    sample = make_sample(x, t.codes[picked], t.targets[picked], t.weight[picked], t.seed, until)
    usable = np.array([k for k in range(x.shape[1]) if _has_many(x[:, k])], dtype=np.intp)
    if recipe.crosses:
        most = min(recipe.crosses, max(1, _MEAN_COLUMNS // t.targets.shape[1]))
        pairs = choose_crosses(sample, t.sizes, most)
        if pairs:
            features = replace(features, crosses=fit_crosses(t.codes, pairs, t.sizes, recipe.min_level_rows))
    if recipe.groups:
        wanted = choose_groups(sample, usable, t.sizes, recipe.groups)
        if wanted:
            some = np.sort(rng.permutation(len(t.rows))[:_GROUP_ROWS])
            numbers = floats(t.columns, features.numbers, some, len(some))
            features = replace(features, groups=fit_groups(numbers, t.codes[some], wanted, t.sizes))
    if recipe.arithmetic:
        features = replace(features, arithmetic=fit_arithmetic(sample, usable, recipe.arithmetic))
    return features


def _with_means(features: Features, t: _Training) -> tuple[Features, OutOfFold | None]:
    """Means of the target of categories with many levels, and of crosses."""
    above, crosses = features.recipe.target_means_above, features.crosses
    columns = [] if above is None else [c for c, column in enumerate(features.levels) if len(column.levels) > above]
    sizes, codes = list(t.sizes), t.codes
    if crosses is not None:
        columns += range(len(sizes), len(sizes) + len(crosses.start))
        sizes += crosses.sizes
        codes = np.hstack([codes, crosses.apply(codes)])
    if not columns:
        return features, None
    arguments = (codes, columns, [sizes[c] for c in columns], t.targets, t.weight, features.recipe.target_prior_rows)
    fold = inner_folds(len(codes), t.rows.groups, t.seed)
    return replace(features, means=fit_target_means(*arguments)), fit_out_of_fold(*arguments, fold)


def _with_scaling(features: Features, t: _Training, own: OutOfFold | None) -> Features:
    """Gaps are looked for in all rows, the rest is learned from some."""
    width = features.recipe
    date_width = 6 + 6 * width.cyclic + 5 * width.calendar
    gaps = [k for k, name in enumerate(features.numbers) if not np.isfinite(t.columns[name]).all()]
    dates = [k for k, name in enumerate(features.dates) if np.isnan(t.columns[name]).any()]
    some = np.arange(0, len(t.rows), max(1, len(t.rows) // nums.SAMPLE))
    x = features.unscaled(t.columns, t.codes, some, own)
    places = np.array(gaps + [len(features.numbers) + k * date_width for k in dates], dtype=np.intp)
    return replace(features, scaling=nums.fit_scaling(x, features.recipe.scaling, places))


def _names_by_type(schema: Schema) -> dict[ColumnType, tuple[str, ...]]:
    """Booleans are numbers: typed rows hold them as 0 and 1."""
    names: dict[ColumnType, list[str]] = {t: [] for t in ColumnType}
    for column in schema.features:
        names[ColumnType.NUMBER if column.type is ColumnType.BOOLEAN else column.type].append(column.name)
    return {t: tuple(n) for t, n in names.items()}


def _first(seconds: np.ndarray) -> float:
    known = seconds[np.isfinite(seconds)]
    return float(known.min()) if known.size else 0.0


def _has_many(values: np.ndarray) -> bool:
    """More than two different values."""
    return len(np.unique(values[~np.isnan(values)])) > 2
