"""An optional second level on top of the greedy ensemble: it is taken only where it wins on rows that it has not seen.

Nested all the way: for each fold k, on the out-of-fold predictions of the other folds alone (of earlier ones where time splits them),
the greedy ensemble is chosen, the second level is fitted to put it right, and both predict fold k. How complex it may be (penalty,
rounds) is told for fold k by the other folds. It wins when it beats the greedy ensemble by more than noise: a paired t-test over the
folds, one-sided at 10 %. Folds rather than rows are compared because rows of a fold share their models (and a group its fold), and
because a mean over folds exists for every metric, rankings included; paired because folds differ much more than ensembles do.

Called by `ensemble.build`. Sources: Wolpert 1992 (stacked generalization); Erickson et al. 2020, arXiv:2003.06505 (columns beside
predictions); the guard is AutoGluon's idea (DyStack).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.metrics import METRICS, Direction
from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.ensemble.base import Candidate, Second, Selection, weighted_mean
from kubeautoml_trainer.ensemble.decisions import out_of_fold_score
from kubeautoml_trainer.ensemble.greedy import select
from kubeautoml_trainer.ensemble.second_linear import Linear
from kubeautoml_trainer.ensemble.second_trees import Trees
from kubeautoml_trainer.models.second_level import Scale, SecondLevel, margins, mean_margin, predictions
from kubeautoml_trainer.tasks.base import Task
from kubeautoml_trainer.tasks.metrics import weights_or_ones

log = logging.getLogger("kubeautoml.finalize")

SECOND = -1
"""The number that stands for the second level among trials."""
LEAST_ROWS = 750
"""Rows (groups where there are some) below which a second level learns noise (ENGINE.md 1.5, after AutoGluon)."""
MOST_ROWS = 100_000
"""More do not move so few numbers; a guess."""
LEAST_FOLDS = 3
MOST_OUTPUTS = 20
"""Classes beyond which a number a class and model is too many; a guess."""
SURE = 0.1
"""Chance of taking a second level that is no better. Measured with hold-outs on six sets of 650 to 5,100 rows: at 5 % HR and digits go
without theirs, which would have lowered their log losses from .6096 to .6078 and from .119 to .094; none that is taken at 10 % did harm.
"""
EXTRAS = (3, 6)
"""Best trials of families that the greedy ensemble did without: so many, or more where they are worth it. Measured on test rows of eleven
jobs on eight sets: with six in place of three computers' error is 133.7 for 136.4 and Titanic's loss .1991 for .1996; the others' changes
by 0.02 % at most.
"""
WORTH = 0.001
"""By which part a second level, or more of these extras, must lower the loss: each input answers every request. Measured on test rows of
eight jobs, nine draws of trials each: nine second levels gained less, and would take 1.1 to 7.4 times the time for 0.1 % less loss on
average (0.4 % less to 0.1 % more). Of nine that gained more, six take 0.5 to 14 % off, and three, on Titanic and German credit, add 3 %.
"""
_TELLING, _BEYOND = 2, 3
"""Folds that tell whether there is a gain at all, and how complex, at most by so much, the second level may be in the others. Guesses
that save time.
"""
_NEAR = 1.5  # times the error of the best above which a model is no help, however unlike its errors are; a guess
_UNLIKE = 0.995  # correlation of errors above which a model says nothing new; a guess
_SQUARED = ("Rmse", "Mse", "R2", "Rmsle")


@dataclass(frozen=True)
class Split:
    """Positions to learn from and to predict. base: the greedy weights of the models, chosen on `learned`."""

    learned: np.ndarray = field(repr=False)
    left_out: np.ndarray = field(repr=False)
    base: np.ndarray


@dataclass(frozen=True)
class FirstLevel:
    """What the first level says of rows it was not fitted on. first: float64 (models, n, outputs), finite."""

    rows: Rows = field(repr=False)
    first: np.ndarray = field(repr=False)
    scale: Scale
    schema: Schema
    task: Task
    metric: str
    seed: int
    threads: int
    deadline: float

    @property
    def weight(self) -> np.ndarray:
        return weights_or_ones(self.rows.weight, len(self.rows))

    def loss(self, margin: np.ndarray, at: np.ndarray) -> float:
        """What learners lower: log loss, or the squared (or absolute) error on the scale of margins."""
        w = self.weight[at]
        if self.scale == "probabilities":
            return self.task.score("LogLoss", self.rows.y[at], predictions(margin, self.scale), w)
        away = margins(self.rows.y[at][:, None], self.scale) - margin
        each = away**2 if self.metric in _SQUARED else np.abs(away)
        return float(w @ each[:, 0] / w.sum())


class Learner(Protocol):
    """A way to put the greedy mean right, at several degrees of complexity."""

    name: str

    def path(self, data: FirstLevel, split: Split, most: int | None) -> list[SecondLevel]:
        """From simple to complex, as many for each split; the first `most`.

        Raises:
            TimeoutError: the deadline came first.
        """
        ...


def second_level(
    candidates: Sequence[Candidate],
    greedy: Selection,
    task: Task,
    metric: str,
    rows: Rows,
    fold: np.ndarray,
    schema: Schema,
    *,
    groups: np.ndarray | None = None,
    seed: int,
    threads: int,
    deadline: float,
) -> Selection | None:
    """The greedy ensemble with a second level as one more candidate; None where that does not win.

    Args:
        candidates: those that `greedy` was chosen from.
        fold: int (n,), as `PreparedData.fold`. groups: object (n,) or None.
        deadline: `time.monotonic()`.
    """
    asked = _Asked(task, metric, rows, fold, schema, groups, seed, threads, deadline)
    found: Selection | None = None
    tried: list[int] = []
    for extras in EXTRAS:
        inputs = choose_inputs(candidates, greedy, metric, extras)
        if len(inputs) in tried:
            continue  # there are no more
        tried.append(len(inputs))
        one = _of_inputs(inputs, candidates, greedy, asked)
        if one is not None and (found is None or _is_worth_it(one.value, found.value, metric)):
            found = one
    return found


@dataclass(frozen=True)
class _Asked:
    """What `second_level` was asked for."""

    task: Task
    metric: str
    rows: Rows = field(repr=False)
    fold: np.ndarray = field(repr=False)
    schema: Schema
    groups: np.ndarray | None = field(repr=False)
    seed: int
    threads: int
    deadline: float


def _of_inputs(
    inputs: Sequence[Candidate], candidates: Sequence[Candidate], greedy: Selection, asked: _Asked
) -> Selection | None:
    """`second_level` of these inputs."""
    task, metric, rows, fold, groups = asked.task, asked.metric, asked.rows, asked.fold, asked.groups
    began = time.monotonic()
    scale = _scale(task, metric, rows)
    if scale is None or task.quantiles or task.outputs > MOST_OUTPUTS or began >= asked.deadline:
        return None
    known = (fold >= 0) & np.all([np.isfinite(c.oof).all(axis=1) for c in inputs], axis=0)
    if rows.weight is not None:
        known &= rows.weight > 0
    at = _some(np.flatnonzero(known), asked.seed)
    effective = len(at) if groups is None else len(set(groups[at].tolist()))
    if effective < LEAST_ROWS or len(np.unique(fold[at])) < LEAST_FOLDS:
        return None
    data = FirstLevel(
        rows.take(at),
        np.stack([c.oof[at] for c in inputs]).astype(np.float64),
        scale,
        _without_texts(asked.schema),
        task,
        metric,
        asked.seed,
        asked.threads,
        asked.deadline,
    )
    here = [replace(c, oof=c.oof[at]) for c in inputs]
    splits = _splits(here, data, fold[at], has_time=bool((fold < 0).any()))
    if len(splits) < LEAST_FOLDS:
        return None
    won = _winner(data, splits)
    if won is None:
        return None
    learner, nested, degree, note = won
    base = np.array([greedy.first_weights.get(c.trial, 0.0) for c in inputs])
    everything = np.arange(len(at))
    try:
        path = learner.path(data, Split(everything, everything[:0], base), degree)
    except TimeoutError:
        return None
    oof = np.full((len(fold), task.outputs), np.nan, dtype=np.float32)
    for split, p in zip(splits, nested, strict=True):
        oof[at[split.left_out]] = p
    second = Second(
        weight=1.0,
        inputs=tuple(c.trial for c in inputs),
        level=path[-1],
        oof=oof,
        value=math.nan,
        first_weights=greedy.first_weights,
        note=note,
        seconds=time.monotonic() - began,
    )
    return _joined(candidates, greedy, second, data, rows)


def choose_inputs(candidates: Sequence[Candidate], greedy: Selection, metric: str, most_extras: int) -> list[Candidate]:
    """The greedy ensemble's members, and the best of other families that are not far behind and whose errors are unlike the members'.

    All of these together may not take longer to predict than all members. Measured on test rows of nine jobs, three draws of trials each,
    with that said of one alone: it changes four second levels, of which none gets worse, and one that did harm is no longer taken; they
    take 1 to 8 times the greedy ensemble's time where they took 4 to 23. Whole jobs of 60 s pay for it on computers, where extremely
    randomised trees are left out: an error of 137.0 and 136.3 for 135.1 to 135.6, with 1.3 times the rows a second and 0.6 of the size. Of
    eight other jobs, nine draws each, what is said of all together changes five: four test losses get lower by 0.2 to 2.9 %, and one, of
    Titanic, higher by 1.3 %.
    """
    by_trial = {c.trial: c for c in candidates}
    chosen = [by_trial[n] for n in greedy.first_weights]
    seconds_left = sum(c.predict_seconds for c in chosen)
    most = _NEAR * min(_loss(c.value, metric) for c in candidates)
    families = {c.family for c in chosen} | {"Dummy"}
    extras = 0
    for c in candidates:
        is_near = _loss(c.value, metric) <= most
        if (
            extras < most_extras
            and is_near
            and c.predict_seconds <= seconds_left
            and c.family not in families
            and all(_are_unlike(c, other) for other in chosen)
        ):
            chosen.append(c)
            families.add(c.family)
            extras += 1
            seconds_left -= c.predict_seconds
    return chosen


def _loss(value: float, metric: str) -> float:
    """How far a value is from perfect: scores are best at 1, losses at 0."""
    return 1.0 - value if METRICS[metric].direction is Direction.MAXIMIZE else value


def _is_worth_it(value: float, before: float, metric: str) -> bool:
    return _loss(value, metric) < (1 - WORTH) * _loss(before, metric)


def _are_unlike(one: Candidate, other: Candidate) -> bool:
    both = np.isfinite(one.oof).all(axis=1) & np.isfinite(other.oof).all(axis=1)
    a, b = one.oof[both][:, -1].astype(np.float64), other.oof[both][:, -1].astype(np.float64)
    if len(a) < 2 or not a.std() or not b.std():
        return False
    return bool(np.corrcoef(a, b)[0, 1] < _UNLIKE)


def _scale(task: Task, metric: str, rows: Rows) -> Scale | None:
    if "LogLoss" in task.metrics:
        return "probabilities"
    if metric == "Rmsle":
        return "logarithms" if bool(np.all(rows.y > -1)) else None
    return "numbers"


def _without_texts(schema: Schema) -> Schema:
    """Words were the first level's work; a few small trees make nothing of them."""
    return replace(
        schema, columns=tuple(c for c in schema.columns if c.type not in (ColumnType.TEXT, ColumnType.IMAGE))
    )


def _some(at: np.ndarray, seed: int) -> np.ndarray:
    if len(at) <= MOST_ROWS:
        return at
    return np.sort(np.random.default_rng(seed).choice(at, MOST_ROWS, replace=False))


def _splits(inputs: Sequence[Candidate], data: FirstLevel, fold: np.ndarray, *, has_time: bool) -> list[Split]:
    """One a fold, with the greedy ensemble of the rows learned from; without folds that nothing precedes."""
    splits = []
    for k in np.unique(fold):
        left_out = fold == k
        learned = np.flatnonzero(fold < k if has_time else ~left_out)
        if not len(learned):
            continue
        some = data.rows.take(learned)
        there = [replace(c, oof=c.oof[learned]) for c in inputs]
        found = select(there, data.task, data.metric, some.y, some.weight, seed=data.seed, deadline=data.deadline)
        if found is not None and (not data.schema.classes or len(np.unique(some.y)) == data.task.outputs):
            base = np.array([found.weights.get(c.trial, 0.0) for c in inputs])
            splits.append(Split(learned, np.flatnonzero(left_out), base))
    return splits


def _winner(data: FirstLevel, splits: Sequence[Split]) -> tuple[Learner, list[np.ndarray], int, str] | None:
    """The learner that beats the greedy ensemble by most, of those that do beyond doubt: with its nested predictions, its degree
    (1 is the simplest), and words.
    """
    learners: list[Learner] = [Trees()]
    if data.scale == "probabilities" or data.metric in _SQUARED:
        learners.insert(0, Linear())
    sign = 1.0 if METRICS[data.metric].direction is Direction.MAXIMIZE else -1.0
    greedy = [predictions(mean_margin(data.first[:, s.left_out], s.base, data.scale), data.scale) for s in splits]
    best: tuple[float, Learner, list[np.ndarray], int, str] | None = None
    for learner in learners:
        try:
            found = _nested(data, splits, learner)
        except TimeoutError:
            log.info("no time for a second level", extra={"learner": learner.name})
            continue
        if found is None:
            log.info("second level tried", extra={"learner": learner.name, "won": False, "gain": "none"})
            continue
        nested, degree = found
        gains = np.array(
            [sign * (_value(data, s, p) - _value(data, s, q)) for s, p, q in zip(splits, nested, greedy, strict=True)]
        )
        is_won, words = beyond_noise(gains)
        log.info("second level tried", extra={"learner": learner.name, "won": is_won, "gain": words})
        if is_won and (best is None or np.nanmean(gains) > best[0]):
            note = f"second level ({learner.name}): {data.metric} better by {words} of {len(splits)} nested folds"
            best = float(np.nanmean(gains)), learner, nested, degree, note
    return None if best is None else best[1:]


def _value(data: FirstLevel, split: Split, p: np.ndarray) -> float:
    rows = data.rows.take(split.left_out)
    return out_of_fold_score(data.task, data.metric, rows.y, p.astype(np.float32), rows.weight)


def beyond_noise(gains: np.ndarray) -> tuple[bool, str]:
    """Whether the mean of the folds' gains is above 0 by a one-sided paired t-test at `SURE`, and the mean in words.

    >>> beyond_noise(np.array([0.3, 0.2, 0.25]))
    (True, '0.25 +- 0.029 in the mean')
    >>> beyond_noise(np.array([0.3, -0.2, 0.25]))[0]
    False
    """
    from scipy.special import stdtrit

    known = gains[np.isfinite(gains)]
    if len(known) < LEAST_FOLDS:
        return False, "nothing that could be measured"
    error = float(known.std(ddof=1) / math.sqrt(len(known)))
    mean = float(known.mean())
    is_won = mean > 0 and mean > float(stdtrit(len(known) - 1, 1 - SURE)) * error
    return is_won, f"{mean:.3g} +- {error:.2g} in the mean"


def _nested(data: FirstLevel, splits: Sequence[Split], learner: Learner) -> tuple[list[np.ndarray], int] | None:
    """Each fold's predictions, at the degree that is best for the other folds, and the degree that is best for all; None when that
    is to learn nothing.
    """
    margins_of: list[list[np.ndarray]] = []
    losses: list[np.ndarray] = []  # a fold: of each degree, times the rows' weight
    most: int | None = None
    for s in splits:
        first, frame = data.first[:, s.left_out], data.rows.frame.iloc[s.left_out]
        began = time.monotonic()
        levels = learner.path(data, s, most)
        left = len(splits) - len(losses)  # and one on all rows
        if time.monotonic() + left * (time.monotonic() - began) > data.deadline:
            raise TimeoutError
        said = [margins(level.predict(first, frame), data.scale) for level in levels]
        margins_of.append([mean_margin(first, s.base, data.scale), *said])
        mass = float(data.weight[s.left_out].sum())
        losses.append(mass * np.array([data.loss(m, s.left_out) for m in margins_of[-1]]))
        if len(losses) == _TELLING:
            best = int(np.argmin(sum(losses)))
            if not best:
                return None
            most = best + _BEYOND
    losses = [own[: len(losses[-1])] for own in losses]
    total = np.sum(losses, axis=0)
    chosen = int(np.argmin(total))
    if chosen == 0:
        return None
    degrees = [int(np.argmin(total - own)) for own in losses]
    return [predictions(m[d], data.scale).astype(np.float32) for m, d in zip(margins_of, degrees, strict=True)], chosen


def _joined(
    candidates: Sequence[Candidate], greedy: Selection, second: Second, data: FirstLevel, rows: Rows
) -> Selection | None:
    """Greedy selection again, with the second level as one more candidate, on the rows that it predicts; None where it gains little."""
    seen = np.flatnonzero(np.isfinite(second.oof).all(axis=1))
    some = rows.take(seen)
    value = out_of_fold_score(data.task, data.metric, some.y, second.oof[seen], some.weight)
    pool = [replace(c, oof=c.oof[seen]) for c in candidates]
    mine = Candidate(SECOND, "SecondLevel", value, second.oof[seen])
    found = select([mine, *pool], data.task, data.metric, some.y, some.weight, seed=data.seed, deadline=data.deadline)
    if found is None or SECOND not in found.weights:
        return None
    mean = weighted_mean({c.trial: c.oof for c in pool if c.trial in greedy.weights}, greedy.weights)
    before = out_of_fold_score(data.task, data.metric, some.y, mean, some.weight)
    if not _is_worth_it(found.value, before, data.metric):
        return None
    weights = {n: w for n, w in found.weights.items() if n != SECOND}
    weights |= {n: 0.0 for n in second.inputs if n not in weights}
    share = found.weights[SECOND]
    return replace(
        found, weights=weights, best_single=greedy.best_single, second=replace(second, weight=share, value=value)
    )
