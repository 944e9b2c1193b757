"""The HTTP server over one loaded bundle: Open Inference Protocol v2, /v1/predict, /metrics, /docs, and a page at /.

Routes only: what a body means is in `rows` and `protocol`, and `answers` takes a body to its answer.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException as RoutingError

from kubeautoml import __version__
from kubeautoml.api.errors import PredictionError
from kubeautoml_trainer.bundle import Model
from kubeautoml_trainer.serve import openapi, protocol
from kubeautoml_trainer.serve.answers import Answers
from kubeautoml_trainer.serve.body import read_body
from kubeautoml_trainer.serve.metrics import Measured, ServerMetrics
from kubeautoml_trainer.serve.page import CONTENT_SECURITY_POLICY, page

_STATIC = "static-offline-docs"
_OIP: list[str | Enum] = ["Open Inference Protocol"]
_HEALTH: list[str | Enum] = ["health"]
_PLAIN: list[str | Enum] = ["plain JSON"]


def create_app(model: Model, *, name: str, version: str, sha256: str = "") -> FastAPI:
    """The server of one model, called `name` in the protocol. Predictions run in worker threads, off the event loop."""
    schema = model.schema
    metrics = ServerMetrics(name, version, sha256)
    answers = Answers(model, name, version, metrics)
    app = FastAPIOffline(
        docs_url=None,
        redoc_url=None,
        static_url=f"/{_STATIC}",
        title=f"KubeAutoML model {name}",
        version=__version__,
        description=f"Predicts **{schema.target}**. Wrong input is answered with 4xx and a sentence: what to do.",
        # relative to /openapi.json, so that /docs also works behind a proxy that adds a prefix
        servers=[{"url": "."}],
        responses={"4XX": openapi.ERROR},
    )
    app.add_middleware(Measured, metrics=metrics)
    _answer_errors(app)

    def check_name(model_name: str, model_version: str | None = None) -> None:
        if model_name != name:
            raise HTTPException(404, f"model '{model_name}' is not served here; this server has '{name}'")
        if model_version not in (None, version):
            raise HTTPException(404, f"version '{model_version}' is not served here; this server has '{version}'")

    async def respond(request: Request, answer: Callable[[bytes], bytes]) -> Response:
        body = await read_body(request)
        return Response(await run_in_threadpool(answer, body), media_type="application/json")

    @app.get("/v2", tags=_OIP, summary="Server metadata")
    async def server() -> dict[str, Any]:
        return protocol.server_metadata()

    @app.get("/v2/health/live", tags=_HEALTH, summary="The process answers")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", tags=_HEALTH, summary="The model is loaded and predicts")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.get("/v2/models/{model_name}", tags=_OIP, summary="Columns and types")
    @app.get("/v2/models/{model_name}/versions/{model_version}", include_in_schema=False)
    async def metadata(model_name: str, model_version: str | None = None) -> dict[str, Any]:
        check_name(model_name, model_version)
        return protocol.model_metadata(name, version, schema, model.interval_columns)

    @app.get("/v2/models/{model_name}/ready", tags=_OIP, summary="The model is ready")
    @app.get("/v2/models/{model_name}/versions/{model_version}/ready", include_in_schema=False)
    async def model_ready(model_name: str, model_version: str | None = None) -> dict[str, Any]:
        check_name(model_name, model_version)
        return {"name": name, "ready": True}

    @app.post(
        "/v2/models/{model_name}/infer",
        tags=_OIP,
        summary="Predict from one tensor a column",
        openapi_extra=openapi.infer_body(schema),
    )
    @app.post("/v2/models/{model_name}/versions/{model_version}/infer", include_in_schema=False)
    async def infer(request: Request, model_name: str, model_version: str | None = None) -> Response:
        check_name(model_name, model_version)
        return await respond(request, answers.tensors)

    @app.post(
        "/v1/predict", tags=_PLAIN, summary="Predict from plain records", openapi_extra=openapi.records_body(schema)
    )
    async def predict(request: Request) -> Response:
        return await respond(request, answers.records)

    @app.get("/metrics", tags=_HEALTH, summary="Prometheus metrics")
    async def prometheus() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def home() -> HTMLResponse:
        html = page(name, version, schema, model.card)
        return HTMLResponse(html, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url=f"{_STATIC}/swagger-ui-bundle.js",
            swagger_css_url=f"{_STATIC}/swagger-ui.css",
            swagger_favicon_url=f"{_STATIC}/favicon.png",
        )

    return app


def _answer_errors(app: FastAPI) -> None:
    """Every error is {"error": sentence}, as the Open Inference Protocol has it; no traceback leaves."""

    @app.exception_handler(PredictionError)
    async def refuse(request: Request, error: Exception) -> JSONResponse:
        return _error(400, str(error))

    @app.exception_handler(RoutingError)
    async def known_problem(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RoutingError)
        return _error(error.status_code, _sentence(request, error), error.headers)

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        # uvicorn logs the traceback: starlette raises the error again after this answer
        return _error(500, "internal error; the server's log has the details")


def _sentence(request: Request, error: RoutingError) -> str:
    """The router itself says no more than 'Not Found'."""
    if error.status_code == 405:
        return f"{request.url.path} takes {(error.headers or {}).get('Allow', 'another method')}, got {request.method}"
    if error.status_code == 404 and error.detail == "Not Found":
        return f"there is nothing at {request.url.path}; /docs lists what there is"
    return str(error.detail)


def _error(status: int, message: str, headers: Any = None) -> JSONResponse:
    return JSONResponse({"error": message}, status_code=status, headers=headers)
