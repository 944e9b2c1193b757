"""Rows in blocks, so that what is held of them stays small, on several threads where the work leaves Python alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np

from kubeautoml_trainer.models.cores import one_blas_thread


def in_blocks(rows: int, block: int, threads: int, act: Callable[[slice], None]) -> None:
    """Call `act` for each block of rows. It writes what it finds to its own rows, and spends its time in numpy, which lets other
    threads run meanwhile.
    """
    _keep_freed_memory()
    parts = [slice(first, first + block) for first in range(0, rows, block)]
    if threads <= 1 or len(parts) <= 1:
        for part in parts:
            act(part)
        return
    with one_blas_thread(), ThreadPoolExecutor(min(threads, len(parts)), thread_name_prefix="rows") as pool:
        for _ in pool.map(act, parts):
            pass


_KEPT_BYTES = 31 * 2**20  # just below the size from which the C library learns nothing


@cache
def _keep_freed_memory() -> None:
    """Have the C library keep the memory of arrays that go, for the next ones, as glibc does with blocks of sizes that it has seen
    freed (mallopt(3), M_MMAP_THRESHOLD). Else each block's arrays are mapped and cleared anew: support vectors and TabM took 2.5
    times as long, measured on 10,000 rows of Boston and Titanic.
    """
    np.empty(_KEPT_BYTES, dtype=np.uint8)
