"""What serving costs: p50 and p99 of one row over loopback, rows per second in batches, each against the model in-process
on the frame that the server makes of the request.

python benchmarks/serving.py     # a small ensemble (Linear, LightGBM, CatBoost, two folds each) on scikit-learn's breast cancer
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from figures import record
from timing import seconds

from kubeautoml_trainer.serve.rows import frame_from_records
from serve.bundles import Trained, real_table, train
from serve.running import Running, running

FAMILIES = ("Linear", "LightGBM", "CatBoost")
SINGLE, BATCHES, BATCH_ROWS, CLIENTS = 400, 10, 1000, 8
WARM_UP = 40  # of SINGLE


def main() -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw, target = real_table("breast_cancer", 569)
        trained = train(folder, raw, target, FAMILIES)
        with running(str(trained.folder), folder) as server:
            single(trained, server)
            batches(trained, server)
    return 0


def single(trained: Trained, server: Running) -> None:
    """One row a request, over a connection that stays open."""
    records = trained.records
    frames = [frame_from_records(r, trained.schema) for r in records]
    bodies = [json.dumps(r).encode() for r in records]
    connection = Connection(server)
    inside = seconds(SINGLE, lambda i: trained.model.predict_frame(frames[i % len(frames)]), WARM_UP)
    plain = seconds(SINGLE, lambda i: connection.post("/v1/predict", bodies[i % len(bodies)]), WARM_UP)
    tensors = [json.dumps(tensor_body(r)).encode() for r in records]
    protocol = seconds(SINGLE, lambda i: connection.post("/v2/models/churn/infer", tensors[i % len(tensors)]), WARM_UP)
    print(f"single rows, {len(trained.schema.features)} columns, {', '.join(FAMILIES)}, {SINGLE} requests, one client")
    print(f"{'':28}{'p50 ms':>9}{'p99 ms':>9}{'p50 ratio':>11}{'p99 ratio':>11}")
    for label, taken in (("in-process", inside), ("POST /v1/predict", plain), ("POST /v2/.../infer", protocol)):
        p50, p99 = percentiles(taken)
        base50, base99 = percentiles(inside)
        print(f"{label:28}{1e3 * p50:9.2f}{1e3 * p99:9.2f}{p50 / base50:11.2f}{p99 / base99:11.2f}")
    p50, _ = percentiles(plain)
    record("one row over HTTP p50", 1e3 * p50, "ms")
    record("one row over HTTP, times in-process p50", p50 / percentiles(inside)[0], "")
    _print_parallel(server, bodies)


def _print_parallel(server: Running, bodies: list[bytes]) -> None:
    def client(_: int) -> list[float]:
        connection = Connection(server)
        return seconds(SINGLE // CLIENTS, lambda i: connection.post("/v1/predict", bodies[i % len(bodies)]))

    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        taken = [t for each in pool.map(client, range(CLIENTS)) for t in each]
    rate = len(taken) / (time.perf_counter() - began)
    p50, p99 = percentiles(taken)
    print(f"{f'  {CLIENTS} clients at once':28}{1e3 * p50:9.2f}{1e3 * p99:9.2f}    {rate:.0f} requests/s")


def batches(trained: Trained, server: Running) -> None:
    """Many rows a request."""
    records = (trained.records * (BATCH_ROWS // len(trained.records) + 1))[:BATCH_ROWS]
    frame, body = frame_from_records(records, trained.schema), json.dumps(records).encode()
    connection = Connection(server)
    inside = BATCH_ROWS / np.median(seconds(BATCHES, lambda _: trained.model.predict_frame(frame)))
    served = BATCH_ROWS / np.median(seconds(BATCHES, lambda _: connection.post("/v1/predict", body)))
    print(f"\nbatches of {BATCH_ROWS} rows, median of {BATCHES}\n{'':28}{'rows/s':>9}{'ratio':>9}")
    print(f"{'in-process':28}{inside:9.0f}{1:9.2f}\n{'POST /v1/predict':28}{served:9.0f}{served / inside:9.2f}")
    record("rows a second in batches, share of in-process", served / inside, "")


class Connection:
    """One HTTP connection that stays open; the standard library's client costs least beside what is measured."""

    def __init__(self, server: Running) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

    def post(self, path: str, body: bytes) -> bytes:
        self._http.request("POST", path, body, {"Content-Type": "application/json"})
        response = self._http.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"POST {path} must answer 200, got {response.status}: {answer[:200]!r}")
        return answer


def tensor_body(record: dict[str, Any]) -> dict[str, Any]:
    return {"inputs": [{"name": k, "datatype": "FP64", "shape": [1], "data": [v]} for k, v in record.items()]}


def percentiles(taken: list[float]) -> tuple[float, float]:
    """p50 and p99."""
    p50, p99 = np.percentile(taken, [50, 99])
    return float(p50), float(p99)


if __name__ == "__main__":
    sys.exit(main())
