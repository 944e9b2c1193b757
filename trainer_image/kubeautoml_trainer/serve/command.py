"""`kubeautoml serve --model URI`: the server that the Deployment runs."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from kubeautoml.api.errors import UsageError
from kubeautoml.api.names import SERVER_PORT, Env


def main(argv: list[str]) -> int:
    """Load the bundle, then listen until SIGTERM. Exit 1 with one line when the bundle cannot be loaded."""
    env = os.environ
    parser = argparse.ArgumentParser(prog="kubeautoml serve", description=__doc__)
    parser.add_argument("--model", default=env.get(Env.MODEL_URI), help="bundle: a folder, file:// or s3:// URI")
    parser.add_argument("--sha256", default=env.get(Env.MODEL_SHA256), help="digest that bundle.json must have")
    parser.add_argument("--name", default=env.get(Env.MODEL_NAME), help="name in the protocol; default: the bundle's")
    parser.add_argument("--model-version", default=env.get(Env.MODEL_VERSION) or "v1", help="version in the protocol")
    parser.add_argument("--host", default=env.get(Env.BIND_HOST) or "0.0.0.0", help="address to listen on")
    parser.add_argument("--port", type=int, default=int(env.get(Env.PORT) or SERVER_PORT), help="port to listen on")
    args = parser.parse_args(argv)
    if not args.model:
        raise UsageError(f"--model must name a bundle (or set {Env.MODEL_URI.value})")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")

    from kubeautoml_trainer.bundle import load_bundle

    credentials = env.get(Env.OUTPUT_CREDENTIALS_DIR)
    model = load_bundle(args.model, credentials_dir=Path(credentials) if credentials else None, sha256=args.sha256)

    import uvicorn

    from kubeautoml_trainer.serve.app import create_app

    name = args.name or str(model.card.get("name") or "model")
    app = create_app(model, name=name, version=args.model_version, sha256=args.sha256 or "")
    print(f"serving {name} ({args.model}) on http://{args.host}:{args.port}", file=sys.stderr, flush=True)
    # access logs would hold nothing but paths; the metrics count those
    uvicorn.run(
        app, host=args.host, port=args.port, log_level="warning", access_log=False, timeout_graceful_shutdown=20
    )
    return 0
