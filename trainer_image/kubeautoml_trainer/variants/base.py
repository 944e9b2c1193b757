"""What a variant is while it is being made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from kubeautoml.api.objective import ModelVariant
from kubeautoml.api.pod import PodJob
from kubeautoml_trainer.bundle import MemberFiles, SecondFiles
from kubeautoml_trainer.data.base import PreparedData
from kubeautoml_trainer.ensemble.base import Cost
from kubeautoml_trainer.ensemble.build import Built, Workshop
from kubeautoml_trainer.ensemble.post import fit_post
from kubeautoml_trainer.tasks.base import Task
from kubeautoml_trainer.tasks.post import Post

if TYPE_CHECKING:
    from kubeautoml_trainer.variants.hands import Hands

T = TypeVar("T")
R = TypeVar("R")


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
class Ground:
    """What every fit of a job needs, whichever process makes it. threads: of one fit."""

    job: PodJob
    data: PreparedData = field(repr=False)
    task: Task
    threads: int


Act = Callable[[Ground, T], R | None]
"""A fit of what a task describes; None where it could not be made. A function of a module: other processes find it by its name."""


@dataclass(frozen=True)
class Bench:
    """What making variants needs.

    seed_of: the seed of a trial's first fold. deadline: `time.monotonic()` after which nothing is fitted. limit: what each variant may
    cost. hands: processes that fit beside this one; None where this one makes all fits.
    """

    shop: Workshop
    built: Built
    threads: int
    seed_of: Callable[[int], int]
    deadline: float
    limit: Cost
    hands: Hands | None = None

    @property
    def ground(self) -> Ground:
        return Ground(self.shop.job, self.shop.data, self.shop.task, self.threads)

    def start(self, act: Act[T, R], tasks: Sequence[T], until: float) -> Callable[[], list[R | None]]:
        """Have tasks done while this process does something else, where there are hands for it; all are when what is returned is called.

        Args:
            until: `time.monotonic()` by which the tasks themselves see to it that they end.

        Returns:
            Gives what comes of each task, in their order; None for one of which nothing was heard.
        """
        if self.hands is not None and self.hands.are_there and len(tasks) > 1:
            return self.hands.start(act, tasks, until)
        return lambda: [act(self.ground, task) for task in tasks]

    def each(self, act: Act[T, R], tasks: Sequence[T], until: float) -> list[R | None]:
        """What comes of each task, as `start` has it."""
        return self.start(act, tasks, until)()
