"""A number beside others of its category: the category's mean, the ratio to it, and the rank within the category."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kubeautoml_trainer.features.choose import Sample, binned_gain, keep_unlike

MAX_CANDIDATES = 100  # pairs of a category and a number, as ENGINE's table of generators
_COLUMNS = 10  # categories, and numbers, that pairs are made of: the most used
_PRIOR_ROWS = 2.0  # of all rows' mean, mixed into a category's; a guess
_QUANTILES = 17
_LEAST_ROWS = 8  # of a category for a rank of its own; a guess
MEAN, RATIO, DIFFERENCE, RANK = range(4)


@dataclass(frozen=True)
class Groups:
    """Features j of a code column and a number, their tables one under the other.

    column: intp (m,), positions among the code columns. number: intp (m,), positions among the numbers. kind: intp
    (m,), increasing: MEAN, RATIO, DIFFERENCE or RANK. offset: int64 (m,), where the feature's codes begin in its
    table. means: float64 (codes of all features but ranks,). quantiles: float64 (codes of all ranks, 17), increasing
    along the last axis.
    """

    column: np.ndarray
    number: np.ndarray
    kind: np.ndarray
    offset: np.ndarray
    means: np.ndarray
    quantiles: np.ndarray

    def apply(self, x: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """float64 (n, k) with NaN, int32 (n, c) -> float64 (n, m); NaN where the number is missing."""
        out = np.empty((len(x), len(self.kind)))
        place = codes[:, self.column] + self.offset
        value = x[:, self.number]
        ends = np.searchsorted(self.kind, [MEAN, RATIO, DIFFERENCE, RANK])
        ratio, difference, rank = (int(v) for v in ends[1:])
        with np.errstate(all="ignore"):
            mean = self.means[place[:, :rank]]
            out[:, :ratio] = mean[:, :ratio]
            out[:, ratio:difference] = value[:, ratio:difference] / mean[:, ratio:difference]
            out[:, difference:rank] = value[:, difference:rank] - mean[:, difference:]
        if rank < out.shape[1]:
            scale = self.quantiles[place[:, rank:]]  # (n, ranks, 17)
            v = value[:, rank:, None]
            share = (np.sum(scale < v, axis=2) + np.sum(scale <= v, axis=2)) / (2.0 * _QUANTILES)
            out[:, rank:] = np.where(np.isnan(value[:, rank:]), np.nan, share)
        out[~np.isfinite(out)] = np.nan
        return out


def choose_groups(sample: Sample, usable: np.ndarray, sizes: Sequence[int], most: int) -> list[tuple[int, int, int]]:
    """(kind, code column, number) of the best features, at most `most`, of at most `MAX_CANDIDATES` pairs.

    usable: intp, positions of numbers with more than two values.
    """
    columns = [int(c) for c in np.argsort(-sample.code_use, kind="stable") if sizes[c] > 3][:_COLUMNS]
    numbers = [int(v) for v in usable[np.argsort(-sample.number_use[usable], kind="stable")]][:_COLUMNS]
    if not columns or not numbers or not sample.residual.shape[1]:
        return []
    number_gain = binned_gain(sample.numbers[:, numbers], sample.residual)
    code_gain = binned_gain(_by_mean(sample.codes[:, columns], sample.residual), sample.residual)
    chosen, made, worth = [], [], []
    for i, column in enumerate(columns):
        for j, number in enumerate(numbers):
            if sample.is_late:
                break
            wanted = [(kind, column, number) for kind in (MEAN, RATIO, DIFFERENCE, RANK)]
            x = fit_groups(sample.numbers, sample.codes, wanted, sizes).apply(sample.numbers, sample.codes)
            gain = binned_gain(x, sample.residual)
            # A category's mean is a function of the category; the others know the number as well
            parents = np.array([code_gain[i]] + [max(code_gain[i], number_gain[j])] * 3)
            chosen += wanted
            made.append(x)
            worth.append(gain - parents)
    if not made:
        return []
    x, scores = np.hstack(made), np.concatenate(worth)
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] > 0][: 4 * most]
    return sorted(chosen[k] for k in keep_unlike(x, order, most))


def fit_groups(
    x: np.ndarray, codes: np.ndarray, wanted: Sequence[tuple[int, int, int]], sizes: Sequence[int]
) -> Groups:
    """Learn the tables of these (kind, code column, number), sorted by kind, from float64 (n, k) and int32 (n, c)."""
    means, quantiles, offsets = [np.zeros(0)], [np.zeros((0, _QUANTILES))], []
    mean_rows = rank_rows = 0
    for kind, column, number in wanted:
        code, value, size = codes[:, column], x[:, number], sizes[column]
        if kind == RANK:
            offsets.append(rank_rows)
            quantiles.append(_quantiles(value, code, size))
            rank_rows += size
        else:
            offsets.append(mean_rows)
            means.append(_means(value, code, size))
            mean_rows += size
    kinds, columns, numbers = (np.array(v, dtype=np.intp) for v in zip(*wanted, strict=True))
    return Groups(
        columns, numbers, kinds, np.array(offsets, dtype=np.int64), np.concatenate(means), np.concatenate(quantiles)
    )


def _means(value: np.ndarray, code: np.ndarray, size: int) -> np.ndarray:
    known = np.isfinite(value)
    if not known.any():
        return np.full(size, np.nan)
    code, value = code[known], value[known]
    with np.errstate(over="ignore", invalid="ignore"):
        overall = value.mean()
        rows = np.bincount(code, minlength=size)
        return np.asarray(
            (np.bincount(code, weights=value, minlength=size) + _PRIOR_ROWS * overall) / (rows + _PRIOR_ROWS)
        )


def _quantiles(value: np.ndarray, code: np.ndarray, size: int) -> np.ndarray:
    """float64 (size, 17); all rows' quantiles for categories with few rows."""
    known = np.isfinite(value)
    if not known.any():
        return np.zeros((size, _QUANTILES))
    code, value = code[known], value[known]
    order = np.lexsort((value, code))
    code, value = code[order], value[order]
    start = np.searchsorted(code, np.arange(size + 1))
    rows = np.diff(start)
    share = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    out = np.tile(np.sort(value)[(share * len(value)).astype(np.intp)], (size, 1))
    enough = rows >= _LEAST_ROWS
    place = start[:-1][enough, None] + (share * rows[enough, None]).astype(np.intp)
    out[enough] = value[place]
    return np.asarray(out)


def _by_mean(codes: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """Codes in the order of the first residual's means, so that bins of equal size say what a category says."""
    out = np.empty(codes.shape)
    for c in range(codes.shape[1]):
        rows = np.maximum(np.bincount(codes[:, c]), 1)
        out[:, c] = (np.bincount(codes[:, c], weights=residual[:, 0]) / rows)[codes[:, c]]
    return out
