"""How much the rows of a class count while a model is fitted. Never while it is scored.

Weights bend probabilities towards rare classes; the calibration of the finished model bends them back.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kubeautoml.api.objective import ClassWeight
from kubeautoml_trainer.data.base import Rows
from kubeautoml_trainer.models.space import Parameters
from kubeautoml_trainer.tasks.metrics import weights_or_ones

MOST = 1_000.0
"""Largest ratio of the weights of two classes: beyond it single rows decide all."""


CLASS_WEIGHT = "class_weight"
"""The parameter of a trial that chooses for itself: "none" or "balanced". Families never see it."""


def without_class_weight(parameters: Parameters, wanted: ClassWeight) -> tuple[Parameters, ClassWeight]:
    """A family's own parameters, and what the rows of a class count: what the job says, or for Auto what the trial chose.

    >>> without_class_weight({"C": 1.0, "class_weight": "balanced"}, ClassWeight.AUTO)
    ({'C': 1.0}, <ClassWeight.BALANCED: 'Balanced'>)
    """
    own = {k: v for k, v in parameters.items() if k != CLASS_WEIGHT}
    if wanted is not ClassWeight.AUTO:
        return own, wanted
    return own, ClassWeight.BALANCED if parameters.get(CLASS_WEIGHT) == "balanced" else ClassWeight.NONE


def class_factors(rows: Rows, classes: int, class_weight: ClassWeight) -> np.ndarray | None:
    """float64 (classes,), what to multiply the weights of each class's rows by; None for nothing.

    The classes present count alike, up to `MOST`; the mean weight of a row stays what it is.
    """
    if class_weight is not ClassWeight.BALANCED or not classes:
        return None
    mass = np.bincount(rows.y, weights=weights_or_ones(rows.weight, len(rows)), minlength=classes)
    factors = np.where(mass > 0, mass.max() / np.maximum(mass, mass.max() / MOST), 1.0)
    return np.asarray(factors * mass.sum() / np.sum(factors * mass))


def weighed(rows: Rows, factors: np.ndarray | None) -> Rows:
    """The rows with their classes' factors on their weights."""
    if factors is None:
        return rows
    return replace(rows, weight=weights_or_ones(rows.weight, len(rows)) * factors[rows.y])
