"""What model families cost beside each other, before anything is known of the data at hand."""

from __future__ import annotations

from collections.abc import Mapping

RELATIVE: Mapping[str, float] = {
    "Dummy": 0.05,
    "Linear": 1.0,
    "NaiveBayesSvm": 1.0,
    "NearestNeighbors": 1.0,
    "LightGBM": 1.0,
    "XGBoost": 2.0,
    "ExtraTrees": 2.0,
    "RandomForest": 3.0,
    "GradientBoosting": 5.0,
    "SupportVectors": 5.0,
    "GaussianProcess": 8.0,
    "CatBoost": 6.0,
    "NeuralNetwork": 10.0,
    "TabM": 15.0,
    "ExplainableBoosting": 4.0,
    "TabularFoundation": 15.0,
    "ConvNet": 40.0,
    "ImageEncoder": 40.0,
    "TextEncoder": 5.0,
    "TextNet": 10.0,
}
"""What a trial of a family costs, in trials of LightGBM. Guesses by order of magnitude, from trials on two cores: they order the
first trials on large data, and count work where a job has no time budget.
"""
UNKNOWN_FAMILY = 5.0


def relative_cost(family: str) -> float:
    """What a trial of a family costs before anything is known, in trials of LightGBM."""
    return RELATIVE.get(family, UNKNOWN_FAMILY)
