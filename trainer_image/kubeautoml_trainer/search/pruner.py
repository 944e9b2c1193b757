"""Who stops hopeless trials early: pruners over folds, with mercy for the first trials and for the portfolio."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, WilcoxonPruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kubeautoml.api.search import PrunerType
from kubeautoml.api.trials import TrialAttr
from kubeautoml_trainer.search.space import FAMILY

COMPLETED_BEFORE_PORTFOLIO = 5
"""Until so many trials are complete, portfolio trials are never pruned: there is nothing fair to compare them with."""


EARLY_FOLDS, LEAST_RIVALS = 2, 6
"""Folds after which a trial must be better than most completed ones of its family in one of them, once there are so many."""


def make_pruner(kind: PrunerType, folds: int) -> BasePruner:
    """The pruner of a job. Auto looks once after two folds, and from four folds on tests like Wilcoxon."""
    if kind is PrunerType.NONE or folds < 2:
        return NopPruner()
    if kind is PrunerType.AUTO:
        later = make_pruner(PrunerType.WILCOXON, folds) if folds >= 4 else NopPruner()
        return TwoFoldPruner(later) if folds >= 3 else NopPruner()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        makers = {
            PrunerType.MEDIAN: lambda: MedianPruner(n_startup_trials=5, n_warmup_steps=1),
            PrunerType.HYPERBAND: lambda: HyperbandPruner(min_resource=1, max_resource=folds, reduction_factor=3),
        }
        return makers.get(kind, lambda: WilcoxonPruner(p_threshold=0.1, n_startup_steps=2))()


class TwoFoldPruner(BasePruner):  # type: ignore[misc]  # untyped here
    """After two folds, stops a trial that most completed ones beat in both; later it asks another pruner.

    A rank test needs four folds to be sure of anything, and on large data two are most of the time. Of two equally good trials each
    beats the other in both folds a quarter of the time, so half of the others is far beyond chance; and whom half of six or more
    beat is not among the best three of its family, which may enter the ensemble.
    """

    def __init__(self, later: BasePruner) -> None:
        self._later = later

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        if len(trial.intermediate_values) != EARLY_FOLDS:
            return bool(self._later.prune(study, trial))
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        mine = trial.intermediate_values
        completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        rivals = [t.intermediate_values for t in completed if mine.keys() <= t.intermediate_values.keys()]
        beaten_by = sum(all(sign * r[fold] < sign * value for fold, value in mine.items()) for r in rivals)
        return len(rivals) >= LEAST_RIVALS and 2 * beaten_by >= len(rivals)


class MercifulPruner(BasePruner):  # type: ignore[misc]  # untyped here
    """Asks the inner pruner, except where it would judge too early; a trial is compared with its own family only.

    An ensemble lives on different models: measured on Titanic, compared with the best of all, nearly every trial of
    another family was stopped, and the ensemble was left with variations of one model.
    """

    def __init__(self, inner: BasePruner) -> None:
        self._inner = inner

    @property
    def is_active(self) -> bool:
        """Whether reports are needed at all; they cost a database write each."""
        return not isinstance(self._inner, NopPruner)

    def spares(self, attrs: Mapping[str, Any], completed: int) -> bool:
        """Whether a trial with these attributes is of the portfolio, and too few are complete to judge it."""
        return TrialAttr.PORTFOLIO in attrs and completed < COMPLETED_BEFORE_PORTFOLIO

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Never the portfolio before some trials are complete, nor the first trial of a family."""
        completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if self.spares(trial.user_attrs, len(completed)):
            return False
        family = trial.params.get(FAMILY)
        if not any(t.params.get(FAMILY) == family for t in completed):
            return False
        return bool(self._inner.prune(_OneFamily(study, family), trial))


class _OneFamily(Study):  # type: ignore[misc]  # untyped here
    """A study as if it held the trials of one family only."""

    def __init__(self, study: Study, family: str | None) -> None:
        self.__dict__.update(study.__dict__)
        self._family = family

    def _get_trials(
        self, deepcopy: bool = True, states: Sequence[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [t for t in super()._get_trials(deepcopy, states, use_cache) if t.params.get(FAMILY) == self._family]

    @property
    def best_trial(self) -> FrozenTrial:
        trials = [t for t in self._get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if t.values]
        best = max if self.direction == StudyDirection.MAXIMIZE else min
        return best(trials, key=lambda t: t.values[0])
