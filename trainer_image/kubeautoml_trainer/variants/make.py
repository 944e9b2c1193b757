"""All variants that a job asks for: first without a fit, so that there is a model, then as good as the time allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kubeautoml.api.objective import ModelVariant
from kubeautoml_trainer.variants.all_rows import with_all_rows
from kubeautoml_trainer.variants.balanced import balanced
from kubeautoml_trainer.variants.base import Bench, Made
from kubeautoml_trainer.variants.distilled import distilled
from kubeautoml_trainer.variants.fast import choose_fast, fast
from kubeautoml_trainer.variants.latest import of_latest_rows
from kubeautoml_trainer.variants.refit import Refits
from kubeautoml_trainer.variants.refolded import Refolding, start_refolding


class Maker:
    """Makes variants; what several need is made once."""

    def __init__(self, bench: Bench, quality: Made) -> None:
        self._bench = bench
        self._quality = quality
        self._refits = Refits(bench)
        self._fast: int | None = None
        self._refolding: Refolding | None = None

    def make(self, wanted: Sequence[ModelVariant], *, fit: bool) -> tuple[Made, ...]:
        """One a name, in this order. fit: False makes what needs no fit, in moments."""
        return tuple(self._one(name, fit=fit) for name in wanted)

    def start_all_rows(self, made: Sequence[Made], deadline: float) -> None:
        """Begin what `with_all_rows` will do, where that can be done while this process does something else."""
        quality = [m for m in made if m.name is ModelVariant.QUALITY]
        self._refolding = start_refolding(self._bench, quality[0], deadline) if quality else None

    def with_all_rows(self, made: Sequence[Made], deadline: float) -> tuple[Made, ...]:
        """The variants, as far as time allows fitted again with the hold-out rows, which have scored them; the cheap ones first."""
        if self._refolding is None:
            self.start_all_rows(made, deadline)
        done = with_all_rows(self._bench, self._refits, made, deadline)
        refolding = self._refolding
        return tuple(refolding.made() if refolding is not None and refolding.quality is m else m for m in done)

    def _one(self, name: ModelVariant, *, fit: bool) -> Made:
        if name is ModelVariant.QUALITY:
            in_time = fit and self._bench.shop.data.has_time
            return of_latest_rows(self._bench, self._refits, self._quality) if in_time else self._quality
        if name is ModelVariant.BALANCED:
            return balanced(self._bench, self._refits, fit=fit)
        made = fast(self._bench, self._refits, self._fast_trial(), fit=fit)
        if name is ModelVariant.FAST:
            return made
        return distilled(self._bench, made) if fit else _not_yet(made)

    def _fast_trial(self) -> int:
        if self._fast is None:
            self._fast = choose_fast(self._bench, self._refits)
        return self._fast


def _not_yet(made: Made) -> Made:
    note = "there was no time to teach a student: the fast model stands in"
    return replace(made, name=ModelVariant.DISTILLED, notes=(note, *made.notes))
