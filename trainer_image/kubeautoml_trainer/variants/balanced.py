"""Balanced: few members, fitted on all rows, once or a few times. Far smaller and faster than the ensemble, at nearly its quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from kubeautoml.api.objective import ModelVariant
from kubeautoml_trainer.ensemble.base import UNLIMITED, combined, combined_oof
from kubeautoml_trainer.ensemble.build import Workshop
from kubeautoml_trainer.ensemble.decisions import out_of_fold_score
from kubeautoml_trainer.variants.base import Bench, Made, post_of
from kubeautoml_trainer.variants.lean import LEANER, Leanness, lean, lean_weights, leanness_of, size_of
from kubeautoml_trainer.variants.refit import NOT_REFITTED, Refits, Single, member

BY_CHANCE = ("LightGBM", "CatBoost", "XGBoost", "GradientBoosting", "NeuralNetwork", "TabM", "ConvNet", "TextNet")
"""Families that another seed makes another model of; forests are a mean of many already."""
MOST_COPIES, FOLDS_A_COPY = 3, 7


def balanced(bench: Bench, refits: Refits, *, fit: bool) -> Made:
    """fit: make refits, as far as time allows; else the best folds' models stand in."""
    built, shop = bench.built, bench.shop
    weights, second = lean(shop, built, bench.limit)
    # the heaviest first: it is the one that must not be missing when time ends
    order = sorted(weights, key=lambda n: -weights[n])
    if fit:
        refits.make((n, 0) for n in order)
    singles = {n: [refits.refit(n) if fit else refits.best_fold(n)] for n in order}
    than = as_fitted(leanness_of(shop, built), singles)
    if second is None:
        weights = lean_weights(shop, than, weights, bench.limit)
        order = [n for n in order if n in weights]
        singles = {n: singles[n] for n in order}
    if bench.limit == UNLIMITED:
        copies = copies_of(than, weights, with_second=second is not None)
        refits.make((n, copy) for n in order if singles[n][0].is_refit for copy in range(1, copies[n]))
        for n in order:
            if singles[n][0].is_refit:
                singles[n] += refits.more(n, copies[n] - 1)
            else:
                singles[n] = refits.best_folds(n, copies[n])
    oof = combined_oof({n: built.candidates[n].oof for n in weights}, weights, second)
    return Made(
        ModelVariant.BALANCED,
        tuple(member(built.candidates[n].record, w, *singles[n]) for n, w in weights.items()),
        said_by(bench, singles, weights, second is not None),
        oof,
        score(shop, oof),
        post_of(shop, oof),
        sum(s.seconds for each in singles.values() for s in each),
        notes_of(singles),
        None if second is None else built.second,
    )


def said_by(
    bench: Bench, singles: Mapping[int, Sequence[Single]], weights: Mapping[int, float], has_second: bool
) -> np.ndarray:
    """float32 (hold-out rows, outputs): what these models say, with the ensemble's second level or without."""
    said = {n: np.asarray(sum(s.holdout.astype(np.float64) for s in each) / len(each)) for n, each in singles.items()}
    second = bench.built.selection.second if has_second else None
    return combined(said, weights, second, bench.shop.data.holdout.frame)


def as_fitted(than: Leanness, singles: Mapping[int, Sequence[Single]]) -> Leanness:
    """With the sizes that refits came to. Boosters that were short of time took longer steps, so that their folds' models are of fewer
    trees than a refit's: German credit's CatBoost of 27 KB a fold became one of 135 KB.
    """
    fitted = {n: s[0].folder for n, s in singles.items() if s[0].is_refit}
    return replace(than, refit_bytes={n: float(size_of(folder)) for n, folder in fitted.items()})


def copies_of(than: Leanness, left: Mapping[int, float], *, with_second: bool = False) -> dict[int, int]:
    """How often each member is fitted again, with other seeds, where chance has a part in its fit and its folds are many.

    One fit on all rows loses what the mean over folds' seeds gained. Measured on Boston and diabetes (three splits; RMSE of 8 folds, one
    refit, three): NeuralNetwork 3.30 3.41 3.32 and 55.3 56.1 55.0, CatBoost 3.53 3.54 3.49 and 55.3 55.4 55.2. The heaviest come
    first, as long as the model stays `LEANER` than the ensemble by as much, for which repeated folds on few rows leave room.
    """
    copies, members = dict.fromkeys(left, 1), than.members
    most = {n: members[n].record.folds // FOLDS_A_COPY for n in left if members[n].record.family in BY_CHANCE}
    for copy in range(2, MOST_COPIES + 1):
        for n in sorted(most, key=lambda n: -left[n]):
            more = {**copies, n: copy}
            if copy <= most[n] and copies[n] == copy - 1 and than.leaner(left, more, with_second=with_second) >= LEANER:
                copies = more
    return copies


def notes_of(singles: Mapping[int, Sequence[Single]]) -> tuple[str, ...]:
    """Which trials' folds stand in."""
    kept = sorted(n for n, s in singles.items() if not s[0].is_refit)
    if not kept:
        return ()
    trials = ", ".join(str(n) for n in kept)
    return (f"trial {trials}: {NOT_REFITTED}",)


def score(shop: Workshop, oof: np.ndarray) -> float | None:
    """The job's metric on the rows that have out-of-fold predictions; None where it is not defined."""
    seen = np.isfinite(oof).all(axis=1)
    rows = shop.data.train.take(seen)
    value = out_of_fold_score(shop.task, shop.job.metric, rows.y, oof[seen], rows.weight)
    return float(value) if abs(value) < float("inf") else None
