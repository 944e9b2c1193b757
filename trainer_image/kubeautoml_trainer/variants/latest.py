"""Quality where rows have an order in time: its members fitted on all training rows, not each on those before a fold.

The folds of a time split are predicted from earlier rows alone, so the first one's model knows few rows, the oldest ones, and the mean over
folds is worse than one model that knows them all. Measured on panels of years, three quarters of them in a job of 70 s, the error on the
later ones before and now: US states' product 28,235 and 9,777, employment 3.62 and 3.10, cigarettes 26.6 and 26.6.
"""

from __future__ import annotations

import time
from dataclasses import replace

from kubeautoml.api.objective import RefitRows
from kubeautoml_trainer.variants.balanced import BY_CHANCE, MOST_COPIES, notes_of, said_by
from kubeautoml_trainer.variants.base import Bench, Made
from kubeautoml_trainer.variants.refit import Refits, member


def of_latest_rows(bench: Bench, refits: Refits, quality: Made) -> Made:
    """The ensemble, each member fitted once on all training rows, and some with further seeds where chance has a part in their fits and
    there is time for it; where a fit cannot be had, the last fold's model, which knows most.
    """
    built, shop = bench.built, bench.shop
    weights = {m.trial: m.weight for m in quality.members}
    order = sorted(weights, key=lambda n: -weights[n])
    began = time.monotonic()
    refits.make((n, 0) for n in order)
    singles = {n: [refits.refit(n)] for n in order}
    a_round = time.monotonic() - began
    # what is fitted here is fitted again with the hold-out, which is the latest of all and worth more than another seed
    again = len(shop.data.holdout) and shop.job.output.refit_on is RefitRows.ALL_ROWS
    for copy in range(1, MOST_COPIES):
        if time.monotonic() + a_round * (1 + 1.5 * (copy + 1) * bool(again)) > bench.deadline:
            break
        records = {n: built.candidates[n].record for n in order if singles[n][0].is_refit and len(singles[n]) == copy}
        further = [n for n, r in records.items() if r.family in BY_CHANCE and copy < r.folds]
        refits.make((n, copy) for n in further)
        for n in further:
            made = refits.copy(n, copy)
            singles[n] += [] if made is None else [made]
    return replace(
        quality,
        members=tuple(member(built.candidates[n].record, weights[n], *singles[n]) for n in weights),
        holdout=said_by(bench, singles, weights, quality.second is not None),
        fit_seconds=sum(s.seconds for each in singles.values() for s in each),
        notes=(*quality.notes, *notes_of(singles)),
    )
