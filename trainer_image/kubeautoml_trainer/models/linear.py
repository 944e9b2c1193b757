"""Linear models: logistic regression and ridge over scaled numbers, one-hot categories, and TF-IDF of words and characters."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kubeautoml.api.dataset import ColumnType
from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features import Recipe, fit_features
from kubeautoml_trainer.features.char_grams import GRAM_CHARACTERS
from kubeautoml_trainer.features.polynomials import MAX_NUMBERS
from kubeautoml_trainer.models.base import DataShape, FitContext
from kubeautoml_trainer.models.linear_solver import (
    MOST_NUMBERS,
    LinearModel,
    load_linear,
    logistic,
    quantiles,
    ridge,
)
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.space import Choice, Float, Int, Parameters, Space
from kubeautoml_trainer.models.target import number_target
from kubeautoml_trainer.models.text_choice import taken_recipe, text_choice, with_embeddings
from kubeautoml_trainer.tasks.metrics import weights_or_ones

_MAX_ROWS = 200_000  # more teach a linear model nothing, and cost time that better families need; a guess
_MAX_QUANTILE_ROWS = 50_000  # each takes a column a quantile, and more steps; a guess
_MAX_POLYNOMIAL_ROWS = 50_000  # 465 columns more; a guess
_SELECTABLE = 10  # columns from which on leaving some out is worth a try; a guess
_MOST_CHARACTERS = 12_000_000  # of the texts of one fit, whose runs then take about half a gigabyte; a guess
_MOST_TERMS, _FEWEST_TERMS = 200_000, 1_000  # columns of the texts, for two classes and for very many
_HIGH_CARDINALITY = 30  # levels above which a column also gets the target's mean

DEFAULTS: Parameters = {
    "C": 1.0,
    "scaling": "skew",
    "categories": "onehot",
    "min_level_rows": 2,
    "target_prior_rows": 10.0,
    "polynomial": False,
    "keep_share": 1.0,
    "terms": "words",
}


class Linear:
    """Logistic regression for classes, ridge for numbers, quantile regression for quantiles of a number."""

    name = "Linear"
    interpretable = True
    relative_cost = 1.0

    def fits(self, shape: DataShape) -> bool:
        return True

    def space(self, shape: DataShape) -> Space:
        """The penalty, and what is done to the columns before: the part of a pipeline that TPOT searches."""
        space: dict[str, Float | Int | Choice] = {
            "C": Float(1e-3, 1e3, log=True),
            "scaling": Choice(("skew", "unscaled", "standard", "quantile", "robust")),
        }
        if shape.categories:
            space |= {
                "categories": Choice(("onehot", "means")),
                "min_level_rows": Int(1, 50, log=True),
                "target_prior_rows": Float(1.0, 100.0, log=True),
            }
        if shape.texts:
            space["terms"] = Choice(("both", "words", "characters"))
        space |= text_choice(shape)
        if _polynomial_pays(shape):
            space["polynomial"] = Choice((False, True))
        if shape.features >= _SELECTABLE:
            space["keep_share"] = Choice((1.0, 0.5, 0.25))
        return space

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        """Plain; all products of two numbers, as cheap (five folds: Boston's RMSE 4.9 becomes 3.4, apartments' 284 161).

        Texts by words and runs of characters (Wang and Manning's snippets and the like: 1 to 3 points better than by words alone), but
        first by words, a tenth of the work: long texts would else have no model for half a minute.
        """
        if shape.images and not shape.texts:
            # hundreds of numbers an image, few of them normal: MNIST, 1,400 digits, 0.972 against 0.963 with `standard`
            return ((1, {"C": 1.0, "scaling": "robust"}), (15, {"C": 0.1, "scaling": "robust"}))
        if shape.texts:
            own: tuple[tuple[int, Parameters], ...] = (
                (1, {"C": 3.0, "terms": "words"}),
                (2, {"C": 3.0, "terms": "both"}),
                (15, {"C": 10.0, "scaling": "quantile"}),
            )
            return own + with_embeddings(shape, 11, {"C": 1.0, "terms": "both"})
        plain: tuple[tuple[int, Parameters], ...] = ((1, {"C": 1.0}), (15, {"C": 0.1, "scaling": "quantile"}))
        return plain + (((7, {"C": 0.1, "polynomial": True}),) if _polynomial_pays(shape) else ())

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        settings = {**DEFAULTS, **parameters}
        most = _MAX_QUANTILE_ROWS if schema.quantiles else _MAX_ROWS
        train = some_rows(train, schema, context.seed, most, settings["terms"] != "words")
        by_means = settings["categories"] == "means"
        recipe = Recipe(
            scaling=settings["scaling"],  # type: ignore[arg-type]
            categories="codes" if by_means else "onehot",
            max_levels=1000 if by_means else 100,
            min_level_rows=int(settings["min_level_rows"]),
            target_means_above=0 if by_means else _HIGH_CARDINALITY,
            target_prior_rows=float(settings["target_prior_rows"]),
            text="sparse",
            terms=settings["terms"],  # type: ignore[arg-type]
            most_terms=most_terms(context.task.outputs),
            cyclic=True,
            calendar=True,
            polynomial=bool(settings["polynomial"]),
            keep_share=float(settings["keep_share"]),
            **taken_recipe(settings),
        )
        features, x = fit_features(recipe, train, schema, context.seed, context.deadline)
        weight = weights_or_ones(train.weight, len(train))
        penalty = 1.0 / float(settings["C"])
        if schema.classes:
            model, steps = logistic(x, train.y, weight, context.task.outputs, penalty, context.deadline)
        else:
            target = number_target(train.y, train.weight, context.metric, standardise=True, bounded=False)
            if schema.quantiles:
                model, steps = quantiles(x, target, train.y, weight, penalty, schema.quantiles, context.deadline)
            else:
                model, steps = ridge(x, target, train.y, weight, penalty, context.deadline)
        return FittedPipeline(self.name, dict(parameters), steps, features, model)

    def load(self, folder: Path) -> LinearModel:
        return load_linear(folder)


def _polynomial_pays(shape: DataShape) -> bool:
    """Few numbers, and not so many rows that hundreds of columns take long."""
    numbers = shape.features - shape.categories - shape.texts
    return 2 <= numbers <= MAX_NUMBERS and shape.rows <= _MAX_POLYNOMIAL_ROWS


def some_rows(rows: Rows, schema: Schema, seed: int, most: int, by_characters: bool) -> Rows:
    """All rows, or a random sample of so many; fewer where texts are long and read by their characters."""
    if by_characters:
        texts = [rows.frame[c.name] for c in schema.features if c.type is ColumnType.TEXT]
        characters = sum(min(len(v), GRAM_CHARACTERS) for column in texts for v in column if isinstance(v, str))
        most = min(most, max(1, int(len(rows) * _MOST_CHARACTERS / max(1, characters))))
    if len(rows) <= most:
        return rows
    return rows.take(np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False)))


def most_terms(outputs: int) -> int:
    """Columns of the texts for which there is memory, with so many classes or quantiles."""
    return max(_FEWEST_TERMS, min(_MOST_TERMS, MOST_NUMBERS // outputs))
