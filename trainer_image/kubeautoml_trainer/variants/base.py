"""What a variant is while it is being made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from kubeautoml.api.objective import ModelVariant
from kubeautoml_trainer.bundle import MemberFiles, SecondFiles
from kubeautoml_trainer.ensemble.base import Cost
from kubeautoml_trainer.ensemble.build import Built, Workshop
from kubeautoml_trainer.ensemble.post import fit_post
from kubeautoml_trainer.tasks.post import Post


@dataclass(frozen=True)
class Made:
    """One form of the model, its pipelines on disk.

    holdout: float32 (hold-out rows, outputs), what the pipelines predict; honest: the same of pipelines that have not learned from
        those rows, None where these have not. oof: float32 (train rows, outputs) out of fold, NaN where
        a row is never validated; None where it was not measured. fit_seconds: what its pipelines took to fit.
    """

    name: ModelVariant
    members: tuple[MemberFiles, ...]
    holdout: np.ndarray = field(repr=False)
    oof: np.ndarray | None = field(repr=False)
    cross_validated: float | None
    post: Post = field(repr=False)
    fit_seconds: float
    notes: tuple[str, ...]
    second: SecondFiles | None = None
    honest: np.ndarray | None = field(default=None, repr=False)

    @property
    def scored(self) -> np.ndarray:
        """Predictions of the hold-out that say what the model is worth, float32 (hold-out rows, outputs)."""
        return self.holdout if self.honest is None else self.honest


def post_of(shop: Workshop, oof: np.ndarray) -> Post:
    """Calibration, decision and intervals, learned from predictions of rows that the models were not fitted on."""
    rows, job = shop.data.train, shop.job
    return fit_post(shop.task, job.objective, oof, rows.y, rows.weight, shop.data.groups, job.search.seed)


@dataclass(frozen=True)
class Bench:
    """What making variants needs.

    seed_of: the seed of a trial's first fold. deadline: `time.monotonic()` after which nothing is fitted. limit: what each variant may
    cost.
    """

    shop: Workshop
    built: Built
    threads: int
    seed_of: Callable[[int], int]
    deadline: float
    limit: Cost
