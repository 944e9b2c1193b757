"""Sentence encoders: pretrained networks that turn a text into a few hundred numbers, run by onnxruntime here and in the server alike.

An encoder is named by the digest of the weights that it was made from. Pipelines hold that name; the encoder itself stands once in a
process, and once in a bundle (`encoders/DIGEST/`), however many pipelines read through it. Its folder holds `encoder.json`,
`encoder.onnx` (int64 (n, tokens) -> float32 (n, width), texts of as many tokens) and `tokenizer.json`, as the tokenizers library
writes it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.features.again import keep_for_rows_that_come_again, known
from kubeautoml_trainer.features.tokens import TOKENIZER, Tokens, by_length

FACTS, NETWORK = "encoder.json", "encoder.onnx"
IN_BUNDLE = "encoders"
FORMAT = 1
MOST_KEPT_BYTES = 256 * 2**20
"""Of vectors that are kept for the next fold; of more texts the later ones are encoded every time."""
_BATCH_TOKENS, _ACCELERATED_TOKENS = 1_024, 65_536
"""Of one call. More are no faster on a CPU, take memory, and are slow between two looks at the clock; an accelerator wants many."""
_BLOCK = 4_096  # texts that are sorted by length at once
_PROBE = 16  # texts after which the clock is looked at for the first time


class EncodingTimeout(Exception):
    """The deadline came before all texts were encoded."""


Compute = Callable[[np.ndarray], np.ndarray]
"""int64 (n, tokens) -> float32 (n, width)."""


class Encoder:
    """One encoder.

    Args:
        sha256: of the weights.
        make: gives the folder; called once, when it is needed first.
        accelerate: gives what onnxruntime computes here, computed on this process's accelerator, or None without one; called once.
    """

    def __init__(
        self, sha256: str, make: Callable[[], Path], accelerate: Callable[[], Compute | None] | None = None
    ) -> None:
        self.sha256 = sha256
        self._make, self._accelerate = make, accelerate
        self.seconds_a_text: float | None = None
        """Measured on the texts that were encoded last."""
        self._kept: dict[str, np.ndarray] = {}

    @cached_property
    def folder(self) -> Path:
        return self._make()

    @cached_property
    def facts(self) -> dict[str, Any]:
        return _facts(self.folder)

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return int(self.facts["width"])

    def open(self) -> None:
        """Read everything now, so that the first text takes no longer than the others."""
        self.tokens.open()
        _ = self._session

    def encode(self, values: Sequence[str | None] | np.ndarray, deadline: float | None = None) -> np.ndarray:
        """Vectors of length 1, float32 (n, width); zeros where there is no text.

        deadline: `time.monotonic()`; what is encoded by then is kept all the same.

        Raises:
            EncodingTimeout: it came.
        """
        out = np.zeros((len(values), self.width), dtype=np.float32)
        store = known(("vectors", self.sha256), len(values), self._kept, dict)
        missing: dict[str, list[int]] = {}
        for row, value in enumerate(values):
            if isinstance(value, str):
                found = None if store is None else store.get(value)
                if found is None:
                    missing.setdefault(value, []).append(row)
                else:
                    out[row] = found
        if missing:
            self._encode_missing(missing, out, deadline, store)
        return out

    def missing(self, values: Sequence[str | None] | np.ndarray) -> int:
        """How many different texts would have to be encoded."""
        return len({v for v in values if isinstance(v, str) and v not in self._kept})

    @cached_property
    def tokens(self) -> Tokens:
        """Cut where the encoder stops reading."""
        return Tokens(self.folder / TOKENIZER, int(self.facts["maxTokens"]))

    def _encode_missing(
        self,
        missing: dict[str, list[int]],
        out: np.ndarray,
        deadline: float | None,
        store: dict[str, np.ndarray] | None,
    ) -> None:
        texts, began, done = list(missing), time.monotonic(), 0
        for first in range(0, len(texts), _BLOCK):
            block = texts[first : first + _BLOCK]
            for batch, ids in self._batches(block, probes=not done):
                if deadline is not None and time.monotonic() > deadline:
                    raise EncodingTimeout
                for text, vector in zip(batch, self._run(ids), strict=True):
                    out[missing[text]] = vector
                    if store is not None and len(store) * self.width * 4 < MOST_KEPT_BYTES:
                        store[text] = vector.copy()
                done += len(batch)
                self.seconds_a_text = (time.monotonic() - began) / done

    def _batches(self, texts: list[str], *, probes: bool) -> Iterator[tuple[list[str], np.ndarray]]:
        """Texts and their tokens, int64 (n, tokens). Texts without any token are left out."""
        ids = self.tokens.of(texts)
        for length, places in by_length(ids):
            room = max(1, (_ACCELERATED_TOKENS if self._compute else _BATCH_TOKENS) // max(1, length))
            first = 0 if length else len(places)
            while first < len(places):
                part = places[first : first + (min(_PROBE, room) if probes else room)]
                probes = False
                yield [texts[k] for k in part], np.stack([ids[k] for k in part])
                first += len(part)

    def _run(self, ids: np.ndarray) -> np.ndarray:
        vectors = self._compute(ids) if self._compute else self._session.run(None, {"ids": ids})[0]
        length = np.sqrt(np.sum(vectors.astype(np.float64) ** 2, axis=1, keepdims=True))
        return np.asarray(vectors / np.maximum(length, 1e-12), dtype=np.float32)

    @cached_property
    def _compute(self) -> Compute | None:
        return self._accelerate() if self._accelerate is not None else None

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # as many as the pod may use, as for every other numerical library; waiting threads must not take the cores of others
        options.intra_op_num_threads = max(1, int(os.environ.get("OMP_NUM_THREADS", "1") or 1))
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            path = str(self.folder / NETWORK)
            return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # whatever it raises, the file is damaged
            raise BundleError(f"{NETWORK} cannot be read: {str(error)[:200]}") from error


def _facts(folder: Path) -> dict[str, Any]:
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if facts["format"] != FORMAT or set(facts) != {"format", "width", "maxTokens"}:
            raise ValueError(f"format {facts['format']}, members {sorted(facts)}")
        return dict(facts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{folder / FACTS} cannot be read: {error!r}; copy the whole model again") from error


def write_facts(folder: Path, width: int, most_tokens: int) -> None:
    """`encoder.json`."""
    body = {"format": FORMAT, "width": width, "maxTokens": most_tokens}
    (folder / FACTS).write_text(json.dumps(body), encoding="utf-8")


@dataclass
class _Shelf:
    """The encoders of this process. job: the one that its job named."""

    known: dict[str, Encoder]
    job: Encoder | None = None


_SHELF = _Shelf({})


def offer(encoder: Encoder) -> Encoder:
    """Make it the one of this process's job; one of the same weights that is there already stays. Returns which it is."""
    keep_for_rows_that_come_again()
    found = _SHELF.known.setdefault(encoder.sha256, encoder)
    _SHELF.job = found
    return found


def encoder_of_job() -> Encoder | None:
    """The encoder whose weights the job of this process named; None without."""
    return _SHELF.job


def look_in(folder: Path, digests: Sequence[str]) -> None:
    """Make the encoders of a bundle known, and ready."""
    for sha256 in digests:
        place = folder / IN_BUNDLE / sha256
        if sha256 not in _SHELF.known and place.is_dir():
            encoder = Encoder(sha256, lambda place=place: place)  # type: ignore[misc]
            encoder.open()
            _SHELF.known[sha256] = encoder


def encoder_named(sha256: str) -> Encoder:
    """Raises BundleError where nobody has offered it."""
    if sha256 not in _SHELF.known:
        raise BundleError(
            f"the model reads texts by an encoder with weights {sha256}, which are not here; copy the whole folder of the model, or name "
            "the weights in spec.search.pretrained"
        )
    return _SHELF.known[sha256]


@dataclass(frozen=True)
class Embedding:
    """What one column of texts becomes: the encoder's numbers, whole or reduced to those in which the training texts differ most.

    sha256: of the encoder's weights. center: float32 (width,). components: float32 (r, width), (0, width) where nothing is reduced.
    """

    sha256: str
    center: np.ndarray
    components: np.ndarray

    def numbers(self, values: np.ndarray, deadline: float | None = None) -> np.ndarray:
        """object (n,) of str or None -> float64 (n, r or width)."""
        vectors = encoder_named(self.sha256).encode(values, deadline)
        if not len(self.components):
            return vectors.astype(np.float64)
        return np.asarray((vectors - self.center) @ self.components.T, dtype=np.float64)


def fit_embedding(values: np.ndarray, sha256: str, most: int, deadline: float | None = None) -> Embedding:
    """Principal components of the texts that are there.

    most: components; 0 for all numbers as they are.

    Raises:
        EncodingTimeout: the deadline came.
    """
    vectors = encoder_named(sha256).encode(values, deadline)
    width = vectors.shape[1]
    vectors = vectors[np.array([isinstance(v, str) for v in values], dtype=bool)]
    if not most or not len(vectors):
        return Embedding(sha256, np.zeros(width, dtype=np.float32), np.zeros((0, width), dtype=np.float32))
    center = vectors.mean(axis=0, dtype=np.float64)
    spread = vectors.astype(np.float64) - center
    _, directions = np.linalg.eigh(spread.T @ spread)  # ascending
    kept = directions[:, ::-1][:, : min(most, width, len(vectors))].T
    # the sign of a direction is open; the greatest part of each is positive, whatever the library
    sign = np.sign(kept[np.arange(len(kept)), np.abs(kept).argmax(axis=1)])
    return Embedding(sha256, center.astype(np.float32), np.ascontiguousarray(kept * sign[:, None], dtype=np.float32))
