"""Checkpoints of long trials: the folds that are done, so that the next attempt begins with those that are left; and the state of the
fit that is under way, where its family gives one.

Under `ArtifactPaths.checkpoint(origin)`, where origin is the first attempt's number: one tar a fold, with the fitted pipeline,
its predictions and a description, and the last state of a fit. Folds are stored only once a trial has become long, so short trials pay
nothing. What is damaged, or belongs to other parameters, is passed over: that fold is fitted again.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kubeautoml.api.errors import KubeAutoMLError
from kubeautoml.api.names import ArtifactPaths
from kubeautoml.storage import ObjectStore
from kubeautoml_trainer.artifacts import array_bytes, array_from, unpack_tar
from kubeautoml_trainer.models.base import Pipeline
from kubeautoml_trainer.models.pipeline import load_pipeline
from kubeautoml_trainer.search.plan import Entry

log = logging.getLogger("kubeautoml.worker")

CHECKPOINT_SECONDS = 10.0
"""Work that may be lost: folds are stored once they add up to so much. A guess, far above the time of storing one."""

Load = Callable[[Path], Pipeline]
"""Reads back a stored pipeline."""

FORMAT = 1
_FOLD, _OOF, _HOLDOUT, _PIPELINE = "fold.json", "oof.npy", "holdout.npy", "pipeline"


@dataclass(frozen=True)
class FoldResult:
    """What one fold of a trial has come to. oof: float32 (validation rows, outputs); holdout: float32 (rows, outputs)."""

    pipeline: Pipeline
    oof: np.ndarray
    holdout: np.ndarray
    value: float
    fit_seconds: float
    predict_seconds: float


class Checkpoint:
    """The stored folds of one trial.

    Args:
        origin: number of the trial's first attempt.
        scratch: folder for unpacking.
        is_retry: whether an earlier attempt may have left something.
    """

    def __init__(
        self,
        store: ObjectStore,
        paths: ArtifactPaths,
        origin: int,
        entry: Entry,
        scratch: Path,
        *,
        is_retry: bool,
        load: Load = load_pipeline,
        every_seconds: float = CHECKPOINT_SECONDS,
    ) -> None:
        self._store, self._paths, self._origin, self._entry = store, paths, origin, entry
        self._scratch = scratch / f"checkpoint-{origin}"
        self._is_retry = is_retry
        self._load = load
        self._every_seconds = every_seconds
        self._pending: dict[int, FoldResult] = {}
        self._began = time.monotonic()
        self._has_stored = is_retry
        self._state: tuple[int, bytes] | None = None

    def stored(self, fold: int) -> FoldResult | None:
        """The fold as an earlier attempt left it, or None."""
        if not self._is_retry:
            return None
        uri = self._paths.checkpoint(self._origin, fold)
        try:
            if not self._store.exists(uri):
                return None
            return self._unpacked(self._store.read(uri), self._scratch / str(fold))
        except (KubeAutoMLError, OSError, ValueError, KeyError, TypeError, tarfile.TarError) as error:
            log.warning("checkpoint passed over", extra={"uri": uri, "error": str(error)[:200]})
            return None

    def state(self, fold: int) -> bytes | None:
        """The state of this fold's fit as an earlier attempt left it, or None."""
        if not self._is_retry:
            return None
        uri = self._paths.fit_state(self._origin, fold)
        try:
            if not self._store.exists(uri):
                return None
            digest, _, state = self._store.read(uri).partition(b"\n")
        except KubeAutoMLError as error:
            log.warning("state of a fit passed over", extra={"uri": uri, "error": str(error)[:200]})
            return None
        return state if hashlib.sha256(state + self._named()).hexdigest().encode() == digest else None

    def keep_state(self, fold: int, state: bytes, *, now: bool) -> None:
        """Where the fit of a fold has come to: stored now, or else with `store`, when the trial is handed back."""
        self._state = fold, state
        if now:
            self._store_state()

    def done(self, fold: int, result: FoldResult) -> None:
        """A fold is done. It is stored, with those before it, once they are worth it."""
        self._pending[fold] = result
        self._state = None
        if time.monotonic() - self._began >= self._every_seconds:
            self.store()

    def store(self) -> None:
        """Store what is not stored yet. Best effort: without it the next attempt has more to do, and nothing is wrong."""
        try:
            self._store_state()
            for fold, result in sorted(self._pending.items()):
                self._store.write(self._paths.checkpoint(self._origin, fold), self._packed(result))
                self._has_stored = True
        except KubeAutoMLError as error:
            log.warning("checkpoint not stored", extra={"error": str(error)})
            return
        self._pending.clear()
        self._began = time.monotonic()

    def _store_state(self) -> None:
        """Best effort, as `store`."""
        if self._state is None:
            return
        fold, state = self._state
        digest = hashlib.sha256(state + self._named()).hexdigest().encode()
        try:
            self._store.write(self._paths.fit_state(self._origin, fold), digest + b"\n" + state)
            self._has_stored = True
        except KubeAutoMLError as error:
            log.warning("state of a fit not stored", extra={"error": str(error)})
        self._state = None

    def forget(self) -> None:
        """The trial has ended: remove what was stored of it. The finalizer removes what stays behind."""
        self._pending.clear()
        self._state = None
        shutil.rmtree(self._scratch, ignore_errors=True)
        if not self._has_stored:
            return
        try:
            self._store.delete(self._paths.checkpoint(self._origin))
        except KubeAutoMLError as error:
            log.warning("checkpoint stays until the model is made", extra={"error": str(error)})

    def _named(self) -> bytes:
        """Family and parameters, so that a state is never taken for another pipeline's."""
        return json.dumps(self._described(), sort_keys=True).encode()

    def _described(self) -> dict[str, Any]:
        return {"format": FORMAT, "family": self._entry.family, "parameters": dict(self._entry.parameters)}

    def _packed(self, result: FoldResult) -> bytes:
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True)
        result.pipeline.save(self._scratch / _PIPELINE)
        oof, holdout = array_bytes(result.oof), array_bytes(result.holdout)
        described = {
            **self._described(),
            "value": result.value,
            "fitSeconds": result.fit_seconds,
            "predictSeconds": result.predict_seconds,
            "sha256": hashlib.sha256(oof + holdout).hexdigest(),
        }
        (self._scratch / _OOF).write_bytes(oof)
        (self._scratch / _HOLDOUT).write_bytes(holdout)
        (self._scratch / _FOLD).write_text(json.dumps(described))
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            tar.add(self._scratch, arcname=".")
        return buffer.getvalue()

    def _unpacked(self, data: bytes, folder: Path) -> FoldResult:
        """Raises ValueError, KeyError or an error of the parts: damaged, or of other parameters."""
        shutil.rmtree(folder, ignore_errors=True)
        unpack_tar(data, folder)
        described = json.loads((folder / _FOLD).read_text())
        wanted = json.loads(json.dumps(self._described()))
        if {k: described.get(k) for k in wanted} != wanted:
            raise ValueError("it was made with other parameters, or by another version")
        oof, holdout = (folder / _OOF).read_bytes(), (folder / _HOLDOUT).read_bytes()
        if hashlib.sha256(oof + holdout).hexdigest() != described["sha256"]:
            raise ValueError("the predictions are damaged")
        return FoldResult(
            pipeline=self._load(folder / _PIPELINE),
            oof=array_from(oof, _OOF),
            holdout=array_from(holdout, _HOLDOUT),
            value=float(described["value"]),
            fit_seconds=float(described["fitSeconds"]),
            predict_seconds=float(described["predictSeconds"]),
        )
