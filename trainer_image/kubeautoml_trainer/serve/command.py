"""`kubeautoml serve --model URI`: the server that the Deployment runs."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

from kubeautoml.api.errors import KubeAutoMLError, UsageError
from kubeautoml.api.names import SERVER_PORT, Env

DRAIN_SECONDS = 20
"""How long requests in flight may take after SIGTERM; below Kubernetes' default grace period of 30 s."""


def main(argv: list[str]) -> int:
    """Load the bundle, then listen until SIGTERM, which lets requests in flight end. Exit 1 with one line when the bundle
    cannot be loaded or the address is taken.
    """
    args = _arguments(argv)
    signal.signal(signal.SIGTERM, _leave)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    listener = _bind(args.host, args.port)

    from kubeautoml_trainer.bundle import load_bundle

    credentials = os.environ.get(Env.OUTPUT_CREDENTIALS_DIR)
    model = load_bundle(
        args.model,
        credentials_dir=Path(credentials) if credentials else None,
        sha256=args.sha256,
        variant=args.variant,
    )

    import uvicorn

    from kubeautoml_trainer.serve.app import create_app

    name = args.name or str(model.card.get("name") or "model")
    app = create_app(model, name=name, version=args.model_version, sha256=model.sha256)
    # access logs would hold nothing but paths; the metrics count those
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=DRAIN_SECONDS)
    print(
        f"serving {name} ({args.model}) on http://{args.host}:{listener.getsockname()[1]}", file=sys.stderr, flush=True
    )
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def _arguments(argv: list[str]) -> argparse.Namespace:
    env = os.environ
    parser = argparse.ArgumentParser(prog="kubeautoml serve", description=__doc__)
    parser.add_argument("--model", default=env.get(Env.MODEL_URI), help="bundle: a folder, file:// or s3:// URI")
    parser.add_argument("--sha256", default=env.get(Env.MODEL_SHA256), help="digest that bundle.json must have")
    parser.add_argument("--variant", help="form of the model, such as Fast; default: the bundle's first")
    parser.add_argument("--name", default=env.get(Env.MODEL_NAME), help="name in the protocol; default: the bundle's")
    parser.add_argument("--model-version", default=env.get(Env.MODEL_VERSION) or "v1", help="version in the protocol")
    parser.add_argument("--host", default=env.get(Env.BIND_HOST) or "0.0.0.0", help="address to listen on")
    parser.add_argument("--port", type=int, default=env.get(Env.PORT) or SERVER_PORT, help="port; 0 takes a free one")
    args = parser.parse_args(argv)
    if not args.model:
        raise UsageError(f"--model must name a bundle (or set {Env.MODEL_URI.value})")
    if not 0 <= args.port <= 65535:
        raise UsageError(f"--port must be between 0 and 65535, got {args.port}")
    return args


def _bind(host: str, port: int) -> socket.socket:
    """Take the address before the model is loaded; nobody can connect until the server listens.

    Raises:
        KubeAutoMLError: it is taken, or not this machine's.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise KubeAutoMLError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --port or --host"
        ) from error
    return listener


def _leave(number: int, frame: FrameType | None) -> None:
    """SIGTERM while loading, and again from uvicorn once it has drained: a wished end, not a failure."""
    raise SystemExit(0)
