"""From out-of-fold predictions to what is done to predictions later: calibrate, decide, say how sure. Called when a model is made."""

from __future__ import annotations

import numpy as np

from kubeautoml.api.objective import Objective
from kubeautoml_trainer.ensemble.calibration import LEAST_ROWS, fit_calibration, nested_parts
from kubeautoml_trainer.ensemble.conformal import class_sets, number_intervals
from kubeautoml_trainer.ensemble.decisions import costs_as_tuples, decision_value, fit_decision
from kubeautoml_trainer.tasks import metrics as m
from kubeautoml_trainer.tasks.base import Task
from kubeautoml_trainer.tasks.post import IDENTITY, Calibration, Decision, Post

_SAME_RANKING = 1e-3  # more than two classes: scores of parts calibrated apart do not compare exactly
_RANKINGS = ("RocAuc", "AveragePrecision")


def fit_post(
    task: Task,
    objective: Objective,
    oof: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray | None,
    groups_or_folds: np.ndarray | None,
    seed: int,
) -> Post:
    """Fit all three; each is left out where it does not pay or is not asked for.

    Args:
        oof: float (n, outputs), predictions of rows the models were not fitted on; rows with NaN are left out.
        y, weight: as in `data.base.Rows`.
        groups_or_folds: (n,), rows that belong together on one side of the nested split; None splits at random.
    """
    seen = np.isfinite(oof).all(axis=1)
    if weight is not None:
        seen &= weight > 0
    if not seen.any():
        return IDENTITY
    p, truth, w = oof[seen], y[seen], m.weights_or_ones(weight, len(y))[seen]
    groups = None if groups_or_folds is None else groups_or_folds[seen]
    coverage = None if objective.intervals is None else float(objective.intervals.coverage)
    if not task.type.is_classification:
        return Post(conformal=None if coverage is None else number_intervals(p, truth, w, coverage))
    parts = nested_parts(len(truth), groups, seed)
    calibration = _calibration(task, p, truth, w, parts)
    final = Post(calibration).calibrated(p)
    name = objective.decision_metric or ("ExpectedCost" if task.costs is not None else objective.metric)
    value, costs = decision_value(task, name), task.costs if name == "ExpectedCost" else None
    decision = None if costs is None else Decision(costs=costs_as_tuples(costs))
    if value is not None and len(truth) >= LEAST_ROWS:
        decision = fit_decision(final, truth, w, parts, value, costs)
    sets = None if coverage is None else class_sets(final, truth, w, coverage)
    return Post(calibration, decision, sets)


def _calibration(task: Task, p: np.ndarray, y: np.ndarray, w: np.ndarray, parts: np.ndarray) -> Calibration | None:
    def keeps(before: np.ndarray, after: np.ndarray) -> bool:
        """Rankings are no worse. Within a part nothing changes its place for two classes; parts against each other may."""
        if p.shape[1] == 2:
            return True
        return all(
            not task.score(name, y, after, w) < task.score(name, y, before, w) - _SAME_RANKING for name in _RANKINGS
        )

    return fit_calibration(p, y, w, parts, keeps)
