"""What a job optimises: the metric, what errors cost, how sure the model must be, and what it may cost to run."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from kubeautoml.api.values import ApiModel, CamelName, DecimalString

ClassName = Annotated[str, StringConstraints(max_length=256)]
"""A class of the target, as text."""


class ModelVariant(StrEnum):
    """A form of the finished model."""

    QUALITY = "Quality"
    BALANCED = "Balanced"
    FAST = "Fast"
    DISTILLED = "Distilled"


class RefitRows(StrEnum):
    """What the variants that are fitted once more learn from in the end."""

    ALL_ROWS = "AllRows"
    TRAINING_ROWS = "TrainingRows"


class ClassWeight(StrEnum):
    """How much the rows of a class count while models are fitted."""

    AUTO = "Auto"
    NONE = "None"
    BALANCED = "Balanced"


class DecisionCost(ApiModel):
    """What it costs to take one class for another."""

    actual: ClassName
    """Class of the row."""
    predicted: ClassName
    """Class that was decided."""
    cost: DecimalString
    """Cost of one such row, in any unit; below 0 for a gain. What is not listed costs nothing when right, and 1 when wrong."""


class Intervals(ApiModel):
    """How sure the model says it is, checked on rows that it was not fitted on (conformal prediction)."""

    coverage: DecimalString
    """Share of rows whose truth lies in the interval (numbers) or in the set of classes, such as "0.9"."""


class Objective(ApiModel):
    """What is optimised."""

    metric: CamelName | None = None
    """Metric to optimise; its direction follows from it. Default: RocAuc for classes, Rmse for numbers, PinballLoss for quantiles."""
    class_weight: ClassWeight = ClassWeight.AUTO
    """None (rows count alike), Balanced (classes count alike while models are fitted; scores still count rows) or Auto: each trial
    chooses, where the metric is about decisions or RecallAtPrecision and one class is rare; else None."""
    costs: list[DecisionCost] = Field(default_factory=list, max_length=256)
    """What wrong decisions cost; needed by the metric ExpectedCost, and decisions are then made so that they cost least."""
    decision_metric: CamelName | None = None
    """Metric that decisions (thresholds) are tuned for, on rows the model was not fitted on, such as F1. Default: the metric itself
    if it is about decisions, else the most probable class is decided."""
    min_precision: DecimalString = "0.9"
    """Precision that RecallAtPrecision asks for, above 0 and at most 1."""
    intervals: Intervals | None = None
    """Prediction intervals, or sets of classes; absent makes none."""


class ConstraintMetric(StrEnum):
    """What a model may be limited in."""

    PREDICT_LATENCY_P99_MS = "PredictLatencyP99Ms"
    MODEL_SIZE_MEGABYTES = "ModelSizeMegabytes"


class ModelConstraint(ApiModel):
    """A limit the final model must keep."""

    metric: ConstraintMetric
    """PredictLatencyP99Ms (one row, on the finalizing pod) or ModelSizeMegabytes."""
    max: DecimalString
    """Largest allowed value."""
