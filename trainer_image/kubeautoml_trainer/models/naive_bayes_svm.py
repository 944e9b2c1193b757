"""Naive Bayes in a linear model (NB-SVM): each column counts by how much more often it stands in one class than in the others,
and a logistic regression weighs them on top of that.

Source: Wang and Manning 2012, "Baselines and bigrams: simple, good sentiment and topic classification". Theirs is a support vector
machine over counts of 0 and 1; over TF-IDF, and as a logistic regression, it is better on all of three sets of reviews and says
probabilities. For numbers, the mean of the target beside a column stands in for the classes' log ratio.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features import Encoded, Recipe, fit_features
from kubeautoml_trainer.models.base import DataShape, FitContext, FitTimeout
from kubeautoml_trainer.models.linear import most_terms, some_rows
from kubeautoml_trainer.models.linear_solver import LinearModel, load_linear, logistic, ridge
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.space import Choice, Float, Parameters, Space
from kubeautoml_trainer.models.target import number_target
from kubeautoml_trainer.tasks.metrics import weights_or_ones

_MAX_ROWS = 200_000  # as many as Linear takes

DEFAULTS: Parameters = {"C": 1.0, "terms": "both", "prior": 1.0}


class NaiveBayesSvm:
    """For texts; other columns count as in a logistic regression."""

    name = "NaiveBayesSvm"
    interpretable = True
    relative_cost = 1.0

    def fits(self, shape: DataShape) -> bool:
        return bool(shape.texts) and not shape.quantiles

    def space(self, shape: DataShape) -> Space:
        return {
            "C": Float(1e-2, 1e2, log=True),
            "terms": Choice(("both", "words", "characters")),
            "prior": Float(0.1, 10.0, log=True),
        }

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        return ((1 if 2 * shape.texts > shape.features else 2, {"C": 3.0}), (12, {"C": 1.0, "terms": "words"}))

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        settings: dict[str, Any] = {**DEFAULTS, **parameters}
        train = some_rows(train, schema, context.seed, _MAX_ROWS, settings["terms"] != "words")
        outputs = context.task.outputs
        recipe = Recipe(
            scaling="skew",
            categories="onehot",
            max_levels=100,
            text="sparse",
            terms=settings["terms"],
            most_terms=most_terms(outputs),
            cyclic=True,
        )
        features, x = fit_features(recipe, train, schema, context.seed, context.deadline)
        weight = weights_or_ones(train.weight, len(train))
        penalty, prior = 1.0 / float(settings["C"]), float(settings["prior"])
        try:
            if schema.classes:
                truth = np.eye(outputs)[train.y]
                ratios = log_ratios(x, truth[:, 1:] if outputs == 2 else truth, weight, prior)
                model, steps = logistic(x, train.y, weight, outputs, penalty, context.deadline, ratios)
            else:
                target = number_target(train.y, train.weight, context.metric, standardise=True, bounded=False)
                means = mean_ratios(x, target.encode(train.y), weight, prior)
                model, steps = ridge(x, target, train.y, weight, penalty, context.deadline, means)
        except FitTimeout as error:
            raise FitTimeout(str(error).replace("Linear:", f"{self.name}:", 1)) from error
        return FittedPipeline(self.name, dict(parameters), steps, features, model)

    def load(self, folder: Path) -> LinearModel:
        return load_linear(folder)


def log_ratios(x: Encoded, truth: np.ndarray, weight: np.ndarray, prior: float) -> np.ndarray:
    """How much more often each column stands in a class than outside, float64 (columns, k); 1 for dense columns.

    log((p / |p|) / (q / |q|)) with p, q the weights of the rows of the class, and of the others, in which a term is, and `prior`
    added to each.

    Args:
        truth: float64 (n, k), 1 where a row is of the class.
    """
    dense = np.ones((x.numbers.shape[1], truth.shape[1]))
    if x.sparse is None:
        return dense
    there = _there(x)
    inside = np.asarray(there.T @ (weight[:, None] * truth)) + prior
    outside = np.asarray(there.T @ (weight[:, None] * (1 - truth))) + prior
    ratio = np.log(inside / inside.sum(axis=0)) - np.log(outside / outside.sum(axis=0))
    return np.vstack([dense, ratio])


def mean_ratios(x: Encoded, target: np.ndarray, weight: np.ndarray, prior: float) -> np.ndarray:
    """The target's mean over the rows in which a term is, drawn towards 0 by `prior` rows of it; float64 (columns, 1)."""
    dense = np.ones((x.numbers.shape[1], 1))
    if x.sparse is None:
        return dense
    there = _there(x)
    mean = np.asarray(there.T @ (weight * target)) / (np.asarray(there.T @ weight) + prior)
    return np.vstack([dense, mean[:, None]])


def _there(x: Encoded) -> Any:
    """1 where a term is in a text, as scipy CSR float64."""
    found = x.sparse.astype(np.float64)
    found.data[:] = 1.0
    return found
