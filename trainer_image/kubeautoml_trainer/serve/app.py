"""The HTTP server over one loaded bundle: Open Inference Protocol v2, /v1/predict, /metrics, /docs, and a page at /."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pandas as pd
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from kubeautoml import __version__
from kubeautoml.api.errors import PredictionError
from kubeautoml_trainer.bundle import Model
from kubeautoml_trainer.data.schema import unknown_columns
from kubeautoml_trainer.serve import openapi, protocol
from kubeautoml_trainer.serve.metrics import ServerMetrics
from kubeautoml_trainer.serve.page import page
from kubeautoml_trainer.serve.rows import frame_from_records, frame_from_tensors

log = logging.getLogger("kubeautoml.server")

MAX_BODY_BYTES = 256 * 2**20
"""Larger requests are refused with 413 before they are parsed."""


def create_app(model: Model, *, name: str, version: str, sha256: str = "") -> FastAPI:
    """The server of one model, called `name` in the protocol. Predictions run in worker threads, off the event loop."""
    app = FastAPIOffline(
        title=f"KubeAutoML model {name}",
        version=__version__,
        description=f"Predicts **{model.schema.target}**. Wrong input is answered with 4xx and a sentence: what to do.",
    )
    metrics = ServerMetrics(name, version, sha256)
    schema = model.schema

    @app.middleware("http")
    async def measure(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        started = time.perf_counter()
        response = await call_next(request)
        route = request.scope.get("route")
        # the route's pattern, not the path: a caller must not be able to make up label values
        endpoint = getattr(route, "path", "unknown")
        metrics.requests.labels(endpoint, str(response.status_code)).inc()
        metrics.seconds.labels(endpoint).observe(time.perf_counter() - started)
        return response

    @app.exception_handler(PredictionError)
    async def refuse(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=400)

    @app.exception_handler(HTTPException)
    async def known_problem(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, status_code=error.status_code)

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        log.error("request failed", exc_info=error, extra={"endpoint": request.url.path})
        return JSONResponse({"error": "internal error; the server's log has the details"}, status_code=500)

    async def read_json(request: Request) -> Any:
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > MAX_BODY_BYTES:
            raise HTTPException(413, f"the body must be at most {MAX_BODY_BYTES} bytes, got {length}")
        try:
            # constants such as NaN are not JSON; a client that sends them means a missing value
            return json.loads(await request.body(), parse_constant=lambda _: None)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise PredictionError(f"the body must be JSON: {error}") from error

    def check_name(model_name: str, model_version: str | None = None) -> None:
        if model_name != name:
            raise HTTPException(404, f"model '{model_name}' is not served here; this server has '{name}'")
        if model_version not in (None, version):
            raise HTTPException(404, f"version '{model_version}' is not served here; this server has '{version}'")

    async def predict(frame: pd.DataFrame) -> pd.DataFrame:
        answer = await run_in_threadpool(model.predict_frame, frame)
        metrics.rows.inc(len(frame))
        metrics.unseen.inc(len(unknown_columns(frame, schema)))
        return answer

    @app.get("/v2", tags=["Open Inference Protocol"], summary="Server metadata")
    async def server() -> dict[str, Any]:
        return protocol.server_metadata()

    @app.get("/v2/health/live", tags=["health"], summary="The process answers")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", tags=["health"], summary="The model is loaded and predicts")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.get("/v2/models/{model_name}", tags=["Open Inference Protocol"], summary="Columns and types")
    @app.get("/v2/models/{model_name}/versions/{model_version}", include_in_schema=False)
    async def metadata(model_name: str, model_version: str | None = None) -> dict[str, Any]:
        check_name(model_name, model_version)
        return protocol.model_metadata(name, version, schema)

    @app.get("/v2/models/{model_name}/ready", tags=["Open Inference Protocol"], summary="The model is ready")
    @app.get("/v2/models/{model_name}/versions/{model_version}/ready", include_in_schema=False)
    async def model_ready(model_name: str, model_version: str | None = None) -> dict[str, Any]:
        check_name(model_name, model_version)
        return {"name": name, "ready": True}

    @app.post(
        "/v2/models/{model_name}/infer",
        tags=["Open Inference Protocol"],
        summary="Predict from one tensor a column",
        openapi_extra=openapi.infer_body(schema),
    )
    @app.post("/v2/models/{model_name}/versions/{model_version}/infer", include_in_schema=False)
    async def infer(request: Request, model_name: str, model_version: str | None = None) -> JSONResponse:
        check_name(model_name, model_version)
        body = await read_json(request)
        frame = frame_from_tensors(body, schema)
        outputs = protocol.wanted_outputs(body, schema)
        predictions = await predict(frame)
        return JSONResponse(protocol.infer_response(name, version, body.get("id"), predictions, outputs, schema))

    @app.post(
        "/v1/predict",
        tags=["plain JSON"],
        summary="Predict from plain records",
        openapi_extra=openapi.records_body(schema),
    )
    async def predict_records(request: Request) -> JSONResponse:
        predictions = await predict(frame_from_records(await read_json(request)))
        rows = protocol.record_predictions(predictions, schema)
        return JSONResponse({"model_name": name, "model_version": version, "predictions": rows})

    @app.get("/metrics", tags=["health"], summary="Prometheus metrics")
    async def prometheus() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def home() -> HTMLResponse:
        return HTMLResponse(page(name, version, schema, model.card))

    return app
