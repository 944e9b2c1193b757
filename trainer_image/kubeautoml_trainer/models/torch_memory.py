"""How many rows of a batch fit into memory at once: estimated before the first step, found where the estimate was wrong.

What is found is kept for the later trials of this process, by what a row takes.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from kubeautoml_trainer.models.memory import CGROUP, MEMINFO, free_memory_bytes

log = logging.getLogger("kubeautoml.worker")

_USABLE = 0.7  # of the memory that is free; allocators and libraries take their share; a guess
_COPIES = 6  # of the weights: themselves, gradients, two moments, the average, the best so far

_found: dict[tuple[str, int], int] = {}
"""(device, bytes a row takes) -> rows with which memory was enough after it had not been."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was too small, and not that something is wrong."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)  # torch's allocator on the CPU


def free_bytes(device: torch.device, cgroup: Path = CGROUP, meminfo: Path = MEMINFO) -> int:
    """Memory that a training may still take: the accelerator's, or what the container's limit and the machine leave."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_memory_bytes(cgroup, meminfo)


def row_bytes(net: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Memory that one row takes while gradients are computed: what the network keeps of a few rows for the way back, by one."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = int(storage.nbytes())
        return tensor

    weights = {t.untyped_storage().data_ptr() for t in net.state_dict().values()}
    buffers = {name: t.clone() for name, t in net.named_buffers()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = net(*inputs)
    with torch.no_grad():
        for name, buffer in net.named_buffers():
            buffer.copy_(buffers[name])
    del out
    total = sum(size for pointer, size in kept.items() if pointer not in weights)
    return int(max(1, total // len(inputs[0])))


def weight_bytes(net: nn.Module) -> int:
    """Of the weights and all that training keeps beside them."""
    return _COPIES * sum(int(t.numel()) * int(t.element_size()) for t in net.state_dict().values())


def fitting_rows(batch: int, row: int, weights: int, device: torch.device, free: int | None = None) -> int:
    """Rows of a batch to compute at once: all, or as many halves fewer as the free memory and earlier trials demand; 1 at least.

    >>> fitting_rows(64, 100, 1_000, torch.device("cpu"), free=6_000)
    32
    """
    usable = _USABLE * (free_bytes(device) if free is None else free) - weights
    rows = batch
    while rows > 1 and rows * row > usable:
        rows = (rows + 1) // 2
    known = _found.get((device.type, row))
    rows = rows if known is None else min(rows, known)
    log.info(
        "fit estimated",
        extra={"rowBytes": row, "weightBytes": weights, "batch": batch, "atOnce": rows, "device": device.type},
    )
    return rows


def was_too_much(rows: int, row: int, device: torch.device) -> int:
    """Memory did not hold so many rows: half of them, also in later trials."""
    fewer = (rows + 1) // 2
    _found[device.type, row] = fewer
    log.warning("out of memory: the batch is computed in smaller parts", extra={"rows": rows, "atOnce": fewer})
    return fewer
