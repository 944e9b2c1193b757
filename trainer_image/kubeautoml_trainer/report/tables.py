"""What an explainable model learned, as a person reads it: its terms by importance, and the tables of single columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kubeautoml_trainer.features.base import MISSING, OTHER
from kubeautoml_trainer.models.additive import AdditiveModel, Term
from kubeautoml_trainer.models.pipeline import FittedPipeline

MOST_TERMS = 30
_MOST_LEVELS = 20  # bars of one drawing


@dataclass(frozen=True)
class Table:
    """One term.

    importance: mean size of its contribution to the training rows, in the unit of `Tables.unit`. edges: float64 (bins + 1,),
    ends of a number's bins; None for a category. labels: names of a category's levels. scores: float64 (bins,), what a value in
    the bin adds; empty where the term has two columns, or adds something else to each class. missing: what no value adds, None
    where training had every value.
    """

    name: str
    importance: float
    edges: np.ndarray | None = None
    labels: tuple[str, ...] = ()
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0))
    missing: float | None = None


@dataclass(frozen=True)
class Tables:
    """The terms of one model, most important first. unit: what their numbers are."""

    unit: str
    terms: tuple[Table, ...]


def read_tables(pipeline: FittedPipeline, target: str, classes: Sequence[str]) -> Tables | None:
    """The tables of a pipeline; None for one of another family."""
    model = pipeline.model
    if not isinstance(model, AdditiveModel):
        return None
    levels = [column.levels for column in pipeline.features.levels]
    scale, unit = 1.0, f"log odds of {classes[-1]}" if len(classes) == 2 else "log odds"
    if model.target is not None:
        scale, unit = model.target.scale, f"log(1 + {target})" if model.target.log else target
    ranked = sorted(model.terms, key=lambda t: -t.importance)[:MOST_TERMS]
    return Tables(unit, tuple(_table(model, term, levels, scale) for term in ranked))


def _table(model: AdditiveModel, term: Term, levels: Sequence[Sequence[str]], scale: float) -> Table:
    importance = term.importance * scale
    if len(term.columns) > 1 or term.scores.ndim > 1:
        return Table(term.name, importance)
    column, bins, scores = term.columns[0], model.bins[term.bins[0]], term.scores * scale
    if column < model.numbers:
        missing = float(scores[0]) if scores[0] else None  # the library leaves 0 where no value was missing
        return Table(term.name, importance, _edges(bins), (), scores[1:-1], missing)
    named = levels[column - model.numbers]
    codes = [code for code in range(2, len(bins)) if bins[code] >= 0][:_MOST_LEVELS]
    labels = [named[code - 2] for code in codes]
    if bins[OTHER] >= 0:
        codes, labels = [*codes, OTHER], [*labels, "(other)"]
    missing = float(scores[bins[MISSING]]) if bins[MISSING] >= 0 else None
    return Table(term.name, importance, None, tuple(labels), scores[bins[codes]], missing)


def _edges(cuts: np.ndarray) -> np.ndarray:
    """The cuts, and an end on each side, as the outer bins have none."""
    if not len(cuts):
        return np.array([-1.0, 1.0])
    beyond = 0.05 * (cuts[-1] - cuts[0]) or max(1.0, 0.05 * abs(cuts[0]))
    return np.concatenate([[cuts[0] - beyond], cuts, [cuts[-1] + beyond]])
