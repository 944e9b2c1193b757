"""A sum of tables: one of each column, and one of each pair that matters. What `ExplainableBoosting` learns and a person
reads.

Needs numpy alone. A prediction is the intercept plus, of each term, the score of the bin that the row falls into.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.features import Encoded
from kubeautoml_trainer.models.target import NumberTarget, load_target, save_target

_ARRAYS, _FILE = "explainable.safetensors", "explainable.json"


@dataclass(frozen=True)
class Term:
    """One table.

    columns: positions among the numbers, then the codes, one or two. bins: for each of them the name of its bins in
    `AdditiveModel.bins`. importance: mean size of the term's contribution to the training rows, in the unit of the score.
    scores: float64 (bins, ...) a column, then (classes,) where there are three or more; bin 0 is for no value, the last for
    a level that training never had.
    """

    name: str
    columns: tuple[int, ...]
    bins: tuple[str, ...]
    importance: float
    scores: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class AdditiveModel:
    """Terms and what their sum means.

    numbers: how many columns are numbers. bins: by name, float64 rising cuts of a number (a value equal to a cut belongs
    above it), or int64 bins of a category's codes, -1 for the last. intercept: float64 (scores,): one for a number and for
    two classes (the log odds of the second), else one a class. classes: intp, those that training had.
    """

    numbers: int
    terms: tuple[Term, ...]
    bins: Mapping[str, np.ndarray]
    intercept: np.ndarray
    classes: np.ndarray
    outputs: int
    target: NumberTarget | None

    def predict(self, x: Encoded, threads: int = 1) -> np.ndarray:
        score = self.score(x)
        if self.target is not None:
            return self.target.decode(score[:, 0])
        if score.shape[1] == 1 and len(self.classes) == 2:
            score = np.hstack([np.zeros_like(score), score])
        e = np.exp(score - score.max(axis=1, keepdims=True))
        p = np.zeros((len(x), self.outputs), dtype=np.float32)
        p[:, self.classes] = e / e.sum(axis=1, keepdims=True)
        return p

    def score(self, x: Encoded) -> np.ndarray:
        """float64 (n, scores), before it becomes a probability or a number."""
        total = np.full((len(x), len(self.intercept)), self.intercept, dtype=np.float64)
        for contribution in self._each(x):
            total += contribution
        return total

    def contributions(self, x: Encoded) -> np.ndarray:
        """What each term adds to the score of each row, float64 (n, terms, scores); with the intercept they sum to `score`."""
        out = np.zeros((len(x), len(self.terms), len(self.intercept)))
        for k, contribution in enumerate(self._each(x)):
            out[:, k] = contribution
        return out

    def sizes(self, x: Encoded) -> list[float]:
        """The mean size of each term's contribution, over rows and scores."""
        return [float(np.abs(contribution).mean()) for contribution in self._each(x)]

    def _each(self, x: Encoded) -> Iterator[np.ndarray]:
        """Each term's contribution in turn, float64 (n, scores)."""
        found: dict[str, np.ndarray] = {}
        for term in self.terms:
            for column, name in zip(term.columns, term.bins, strict=True):
                if name not in found:
                    found[name] = self._places(x, column, self.bins[name])
            yield term.scores[tuple(found[name] for name in term.bins)].reshape(len(x), -1)

    def _places(self, x: Encoded, column: int, bins: np.ndarray) -> np.ndarray:
        """The bins of a column's values, int (n,)."""
        if column >= self.numbers:
            return np.asarray(bins[x.codes[:, column - self.numbers]])
        values = x.numbers[:, column]
        return np.where(np.isnan(values), 0, np.searchsorted(bins, values, side="right") + 1)

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        arrays = {"intercept": self.intercept, "classes": self.classes.astype(np.int64)}
        arrays |= {f"bins/{name}": b for name, b in self.bins.items()}
        arrays |= {f"scores/{k}": np.ascontiguousarray(t.scores) for k, t in enumerate(self.terms)}
        save_file(arrays, str(folder / _ARRAYS))
        terms = [{"name": t.name, "columns": t.columns, "bins": t.bins, "importance": t.importance} for t in self.terms]
        described = {"numbers": self.numbers, "outputs": self.outputs, "terms": terms}
        (folder / _FILE).write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")
        save_target(self.target, folder)


def load_additive(folder: Path) -> AdditiveModel:
    """Read what `AdditiveModel.save` wrote.

    Raises:
        BundleError: absent or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        described = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        arrays = load_file(str(folder / _ARRAYS))
        terms = tuple(
            Term(t["name"], tuple(t["columns"]), tuple(t["bins"]), t["importance"], arrays[f"scores/{k}"])
            for k, t in enumerate(described["terms"])
        )
        bins = {n.removeprefix("bins/"): a for n, a in arrays.items() if n.startswith("bins/")}
        if missing := {name for t in terms for name in t.bins} - set(bins):
            raise KeyError(*missing)
        return AdditiveModel(
            described["numbers"],
            terms,
            bins,
            arrays["intercept"],
            arrays["classes"].astype(np.intp),
            described["outputs"],
            load_target(folder),
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BundleError(f"{folder / _ARRAYS} cannot be read: {error!r}") from error
