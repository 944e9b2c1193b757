"""What the search makes of a fit that reports its epochs: words for the status, a state for the next attempt, and an early end.

Trials are compared as Hyperband does (Li et al. 2018, arXiv:1603.06560), but one at a time as each comes to a rung (Li et al. 2020,
arXiv:1810.05934): at a quarter and at half of its first fold's epochs a trial must be better than most of its family were there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial, TrialState

from kubeautoml.api.trials import TrialAttr
from kubeautoml_trainer.search.checkpoint import Checkpoint
from kubeautoml_trainer.search.space import FAMILY

log = logging.getLogger("kubeautoml.worker")

RUNGS = (0.25, 0.5)
"""Shares of the epochs at which trials are compared. Earlier ones say little of a schedule whose rate is still rising. A guess."""
LEAST_RIVALS = 4
"""Completed trials of the family with a value at the rung, before one is ended. A guess."""

STATE_SECONDS = 30.0
"""Work of a fit that may be lost with its pod; storing a state takes a moment for a small network, a second for a large one."""
SNAPSHOT_SECONDS, SNAPSHOT_SHARE = 2.0, 0.02
"""A state is made ready for SIGTERM no more often than this, and never takes more than this share of the fit's time."""
SAY_SECONDS = 10.0
"""Between two lines of the log, or two writes to the status, about one trial."""


@dataclass
class FitWatch:
    """Progress of one fit; a `models.base.FitProgress`.

    keeps: where states go. say: takes words for the status. decide: called at each rung with (rung, value); raises to end the trial.
    """

    trial: int
    fold: int
    keeps: Checkpoint
    say: Callable[[str], None]
    decide: Callable[[float, float], None]
    clock: Callable[[], float] = time.monotonic
    _passed: set[float] = field(default_factory=set, init=False)
    _snapshot_at: float = field(init=False)
    _stored_at: float = field(init=False)
    _said_at: float = field(init=False)

    def __post_init__(self) -> None:
        self._snapshot_at = self._stored_at = self._said_at = self.clock()

    def report(self, epoch: int, of: int, value: float | None, rows_a_second: float) -> None:
        """An epoch is done."""
        now = self.clock()
        if now - self._said_at >= SAY_SECONDS:
            self._said_at = now
            words = f"epoch {epoch} of {of}, {rows_a_second:,.0f} rows a second"
            log.info("trial trains", extra={"trial": self.trial, "fold": self.fold, "doing": words, "loss": value})
            self.say(words)
        if value is None:
            return
        for rung in RUNGS:
            if epoch / max(1, of) >= rung and rung not in self._passed and epoch < of:
                self._passed.add(rung)
                self.decide(rung, value)

    def stored(self) -> bytes | None:
        return self.keeps.state(self.fold)

    def keep(self, make: Callable[[], bytes]) -> None:
        """Make the state ready, and store it when much would be lost without."""
        now = self.clock()
        if now < self._snapshot_at + SNAPSHOT_SECONDS:
            return
        must_store = now >= self._stored_at + STATE_SECONDS
        self.keeps.keep_state(self.fold, make(), now=must_store)
        after = self.clock()
        if must_store:
            self._stored_at = after
        # a state that takes long to make is made less often
        self._snapshot_at = after + max(0.0, (after - now) / SNAPSHOT_SHARE - SNAPSHOT_SECONDS)


def is_hopeless(trials: Sequence[FrozenTrial], family: str, rung: float, value: float) -> bool:
    """Whether most completed trials of the family were better than `value` at this rung; lower is better."""
    done = (t for t in trials if t.state is TrialState.COMPLETE and t.params.get(FAMILY) == family)
    rivals = [v for v in (rungs_of(t).get(str(rung)) for t in done) if v is not None]
    return len(rivals) >= LEAST_RIVALS and 2 * sum(v < value for v in rivals) > len(rivals)


def rungs_of(trial: FrozenTrial) -> Mapping[str, float]:
    """Rung -> validation loss of the trial's first fold there."""
    return trial.user_attrs.get(TrialAttr.RUNGS.value) or {}
