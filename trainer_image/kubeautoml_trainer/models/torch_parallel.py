"""Several processes that train one network, each on its share of every batch; and the one that is alone.

Gradients are averaged by DistributedDataParallel. What depends on the clock is decided by the first process and told to the others, so
that all take the same steps.
"""

from __future__ import annotations

import logging
import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pickle import PicklingError
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from kubeautoml_trainer.models.base import FitContext, Unwatched
from kubeautoml_trainer.models.torch_training import device_for_training

log = logging.getLogger("kubeautoml.worker")

T = TypeVar("T")

_SILENCE = timedelta(seconds=120)
"""After which a process that hears nothing of the others gives up; far above a step's time, a guess."""
_LEAVE_SECONDS = 10.0
_MOST_COPIED = 2 << 30  # bytes of examples beyond which processes do not get copies of them; a guess


class World(Protocol):
    """The processes of a training. rank: this one, from 0. size: how many."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def wrap(self, net: nn.Module, device: torch.device) -> nn.Module:
        """The network whose gradients are those of all processes. One that has `has_idle_parameters` may leave some unused."""
        ...

    def mine(self, order: Tensor) -> Tensor:
        """This process's rows of a batch."""
        ...

    def same(self, value: float) -> float:
        """The first process's value."""
        ...

    def agrees(self, claim: bool) -> bool:
        """What the first process says."""
        ...


class Alone:
    """One process."""

    rank, size = 0, 1

    def wrap(self, net: nn.Module, device: torch.device) -> nn.Module:
        return net

    def mine(self, order: Tensor) -> Tensor:
        return order

    def same(self, value: float) -> float:
        return value

    def agrees(self, claim: bool) -> bool:
        return claim


ALONE = Alone()


@dataclass(frozen=True)
class Group:
    """One of several processes; `torch.distributed` is initialised."""

    rank: int
    size: int

    def wrap(self, net: nn.Module, device: torch.device) -> nn.Module:
        from torch.nn.parallel import DistributedDataParallel

        idle = bool(getattr(net, "has_idle_parameters", False))
        if device.type == "cuda":
            net = nn.SyncBatchNorm.convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]
            return DistributedDataParallel(net, device_ids=[device], find_unused_parameters=idle)
        return DistributedDataParallel(net, find_unused_parameters=idle)

    def mine(self, order: Tensor) -> Tensor:
        return order[self.rank :: self.size]

    def same(self, value: float) -> float:
        told = torch.tensor([value], dtype=torch.float64)
        torch.distributed.broadcast(told, src=0)
        return float(told)

    def agrees(self, claim: bool) -> bool:
        return bool(self.same(float(claim)))


def accelerators() -> list[torch.device]:
    """Those of this pod."""
    return [torch.device("cuda", k) for k in range(torch.cuda.device_count())] if torch.cuda.is_available() else []


def on_all_accelerators(work: Callable[..., T], arguments: Sequence[Any], context: FitContext, size: int) -> T:
    """Do work on all accelerators of the pod, a process each, or on the one it has, or on the CPU; also where several of them fail.

    Args:
        work: a function of a module, called with (world, device, *arguments, context); it may not change the arguments.
        arguments: plain values, of which the other processes get copies.
        size: bytes of what would be copied.
    """
    devices = accelerators()
    if len(devices) > 1 and size < _MOST_COPIED:
        try:
            result: T = everywhere(_watched, devices, work, arguments, _Watched(context))
            return result
        # of the processes, or of values that cannot go to another one
        except (RuntimeError, OSError, PicklingError, AttributeError, TypeError) as error:
            log.warning("training on several accelerators failed: on with one", extra={"error": str(error)[:300]})
    return work(ALONE, device_for_training(), *arguments, context)


class _Watched:
    """A context whose progress stays in this process: copies in others report to nobody."""

    def __init__(self, context: FitContext) -> None:
        self.context = context

    def __reduce__(self) -> tuple[Any, ...]:
        return _Watched, (replace(self.context, progress=Unwatched()),)


def _watched(
    world: World, device: torch.device, work: Callable[..., T], arguments: Sequence[Any], watched: _Watched
) -> T:
    result: T = work(world, device, *arguments, watched.context)
    return result


def everywhere(work: Callable[..., T], devices: Sequence[torch.device], *arguments: Any) -> T:
    """Do the same work in one process a device, of which this one is the first; returns what it came to here.

    Args:
        work: a function of a module, called with (world, device, *arguments). The others' results are thrown away.
        arguments: for this process; the others get copies, so they must be plain values.
    """
    world = len(devices)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        others = [
            context.Process(target=_work_along, args=(work, k, world, devices[k], meeting, arguments), daemon=True)
            for k in range(1, world)
        ]
        for process in others:
            process.start()
        try:
            _join(0, world, devices[0], meeting)
            result = work(Group(0, world), devices[0], *arguments)
            for process in others:
                process.join(_LEAVE_SECONDS)
            return result
        finally:
            for process in others:
                process.kill()
                process.join()
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def _work_along(
    work: Callable[..., Any], rank: int, size: int, device: torch.device, meeting: str, arguments: Sequence[Any]
) -> None:
    """What the other processes do."""
    _join(rank, size, device, meeting)
    work(Group(rank, size), device, *arguments)
    torch.distributed.destroy_process_group()


def _join(rank: int, size: int, device: torch.device, meeting: str) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        init_method=meeting,
        rank=rank,
        world_size=size,
        timeout=_SILENCE,
    )
