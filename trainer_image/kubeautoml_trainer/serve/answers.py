"""The body of a request to the body of its answer; plain functions, called in worker threads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kubeautoml.api.errors import PredictionError
from kubeautoml_trainer.bundle import Model
from kubeautoml_trainer.data.schema import unknown_columns
from kubeautoml_trainer.serve import protocol
from kubeautoml_trainer.serve.body import parse_json
from kubeautoml_trainer.serve.metrics import ServerMetrics
from kubeautoml_trainer.serve.rows import frame_from_records, frame_from_tensors


@dataclass(frozen=True)
class Answers:
    """What one model answers. Methods may run in several threads at once.

    Raises (all methods):
        PredictionError: the body is not what it must be; says what, where, and what came.
    """

    model: Model
    name: str
    version: str
    metrics: ServerMetrics

    def records(self, body: bytes) -> bytes:
        """POST /v1/predict."""
        predictions = self._predict(frame_from_records(parse_json(body), self.model.schema))
        rows = protocol.record_predictions(predictions, self.model.schema)
        return _json({"model_name": self.name, "model_version": self.version, "predictions": rows})

    def tensors(self, body: bytes) -> bytes:
        """POST /v2/models/{name}/infer."""
        request, schema = parse_json(body), self.model.schema
        frame = frame_from_tensors(request, schema)
        outputs = protocol.wanted_outputs(request, schema, self.model.interval_columns)
        request_id = protocol.request_id(request)
        return _json(
            protocol.infer_response(self.name, self.version, request_id, self._predict(frame), outputs, schema)
        )

    def _predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        predictions = self.model.predict_frame(frame)
        _check_finite(predictions)
        self.metrics.rows.inc(len(frame))
        self.metrics.ignored.inc(len(unknown_columns(frame, self.model.schema)))
        return predictions


def _check_finite(predictions: pd.DataFrame) -> None:
    """Numbers such as 1e300 are finite, yet some models make infinity of them, which JSON cannot say."""
    finite = np.isfinite(predictions.select_dtypes("number").to_numpy()).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise PredictionError(
            f"row {row} has numbers so far from the training data that the model gives no finite prediction; "
            "check its values"
        )


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
