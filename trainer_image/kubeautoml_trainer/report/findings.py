"""Everything the report is written from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kubeautoml.api.pod import PodJob
from kubeautoml_trainer.artifacts import TrialRecord
from kubeautoml_trainer.bundle import Model
from kubeautoml_trainer.data.base import PreparedData
from kubeautoml_trainer.ensemble import Selection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class Findings:
    """What a finished search found. `prediction`: the model's for the hold-out, float32 (rows, outputs)."""

    job: PodJob
    model: Model
    selection: Selection
    trials: list[TrialRecord]
    """Records of the candidates, best first."""
    finished: Sequence[FrozenTrial] = field(repr=False)
    """All trials of the study."""
    data: PreparedData = field(repr=False)
    prediction: np.ndarray = field(repr=False)
    metrics: dict[str, float]
    latency_p99_ms: float
