"""What a model family is: a search space, a portfolio, and a fit that returns a fitted model.

A *pipeline* is a fitted feature transformer and a fitted model: what one fold of a trial leaves behind, what the
ensemble weighs, what a bundle holds. `Family.fit` and `load_pipeline` (in `models/pipeline.py`) are the only ways to
get one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from kubeautoml.api.errors import KubeAutoMLError
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features.base import Encoded
from kubeautoml_trainer.models.space import Parameters, Space
from kubeautoml_trainer.tasks.base import Task


class FitTimeout(KubeAutoMLError):
    """The deadline came before a fit had anything to return."""

    default_reason = "FitTimeout"


@dataclass(frozen=True)
class DataShape:
    """The facts on which spaces and portfolios may depend."""

    task: TaskType
    rows: int
    """Training rows of one fit."""
    features: int
    categories: int
    texts: int
    outputs: int
    quantiles: int = 0
    """How many quantiles of a number are predicted; 0 for its mean and for classes."""
    accelerated: bool = False
    """Whether networks are trained on an accelerator."""
    images: int = 0
    """Columns of images."""
    side: int = 0
    """Pixels of the shorter side of the smallest image column; 0 without one."""
    channels: int = 0
    """Of the images: 1 where all are grey, else 3."""
    encodes_texts: bool = False
    """Whether the job names a sentence encoder, by which any family may read texts."""
    balance: float = 1.0
    """The rarest class's share of the rows by an even share; 1 where classes are alike in number, and for numbers."""

    @property
    def width(self) -> int:
        """About how many columns there are once levels and words have become numbers; a guess."""
        return self.features + 20 * self.categories + 32 * self.texts + 256 * self.images


class FitProgress(Protocol):
    """Where a long fit says how far it is, and keeps its state; a family that trains by epochs calls it, others need not."""

    def report(self, epoch: int, of: int, value: float | None, rows_a_second: float) -> None:
        """An epoch is done.

        Args:
            epoch: counted from 1. of: as many as there will be, as far as is known.
            value: a validation loss, lower is better, comparable within the family; None where there is none.

        Raises:
            Exception: the fit is not worth going on; pass it on.
        """
        ...

    def stored(self) -> bytes | None:
        """The state that an earlier attempt at this fit kept; None for a fresh start."""
        ...

    def keep(self, make: Callable[[], bytes]) -> None:
        """A state could be kept now: `make` gives it, and is called only when it is worth it. Call it as often as after each step."""
        ...


class Unwatched:
    """Nobody watches: a fit outside of a search."""

    def report(self, epoch: int, of: int, value: float | None, rows_a_second: float) -> None:
        return

    def stored(self) -> bytes | None:
        return None

    def keep(self, make: Callable[[], bytes]) -> None:
        return


@dataclass(frozen=True)
class FitContext:
    """What a fit may use."""

    task: Task
    metric: str
    """The job's objective, for families that can stop early on it."""
    seed: int
    threads: int
    deadline: float
    """`time.monotonic()` at which the fit must have returned with the best it has."""
    progress: FitProgress = field(default_factory=Unwatched)


class FittedModel(Protocol):
    """A model after fit; works on what its family's features make of typed rows."""

    def predict(self, x: Encoded, threads: int = 1) -> np.ndarray:
        """float32 (n, outputs)."""
        ...

    def save(self, folder: Path) -> None:
        """Write native booster files, safetensors or JSON; never pickle. A model that can be told in fewer digits may have a method `lean`,
        which returns that one.
        """
        ...


class Pipeline(Protocol):
    """Fitted features and a fitted model."""

    family: str
    parameters: Parameters
    best_iteration: int | None
    threads: int | None
    """As `set_threads` said; None until it did."""

    def set_threads(self, threads: int) -> None:
        """How many threads `predict` may use; until said otherwise 1 for a few rows and all there are for many."""
        ...

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Predict typed rows (`data.base.Rows.frame`): float32 (n, outputs). Threads as `set_threads` says."""
        ...

    def save(self, folder: Path) -> None:
        """Write everything needed to predict into an empty folder."""
        ...


class Family(Protocol):
    """One model family, a plug-in."""

    name: str
    """CamelCase, as in spec.search.families."""
    interpretable: bool
    """Whether a person can read the model; the Interpretable preset takes only these."""
    relative_cost: float
    """What a trial costs, in trials of LightGBM. Guesses by order of magnitude, from trials on two cores: they order the first trials
    on large data, and count work where a job has no time budget. A family that an accelerator makes cheaper may have an
    `accelerated_cost` beside it.
    """

    def fits(self, shape: DataShape) -> bool:
        """Whether it is worth trying on data of this shape."""
        ...

    def space(self, shape: DataShape) -> Space:
        """What may be searched."""
        ...

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        """(rank, parameters) to try first, whatever the sampler; lower ranks come earlier over all families."""
        ...

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> Pipeline:
        """Fit features and model on `train` only; `valid` is for early stopping. Missing parameters take the family's
        defaults.
        """
        ...

    def load(self, folder: Path) -> FittedModel:
        """Read what `FittedModel.save` wrote; `load_pipeline` calls it.

        Raises:
            BundleError: absent or damaged.
        """
        ...
