"""Several processes that train one network, each on its share of every batch; and the one that is alone.

Gradients are averaged by DistributedDataParallel. What depends on the clock is decided by the first process and told to the others, so
that all take the same steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


class World(Protocol):
    """The processes of a training. rank: this one, from 0. size: how many."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def wrap(self, net: nn.Module, device: torch.device) -> nn.Module:
        """The network whose gradients are those of all processes."""
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

        if device.type == "cuda":
            net = nn.SyncBatchNorm.convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]
            return DistributedDataParallel(net, device_ids=[device])
        return DistributedDataParallel(net)

    def mine(self, order: Tensor) -> Tensor:
        return order[self.rank :: self.size]

    def same(self, value: float) -> float:
        told = torch.tensor([value], dtype=torch.float64)
        torch.distributed.broadcast(told, src=0)
        return float(told)

    def agrees(self, claim: bool) -> bool:
        return bool(self.same(float(claim)))
