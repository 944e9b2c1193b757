"""Pictures as the training loop wants them: uint8 on the device where they fit there, else read ahead by a thread.

They come as a column of typed rows has them: an array of uint8 arrays (height, width, channels), views into a file on disk; None is a
black picture.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from kubeautoml_trainer.models.torch_conv import Scaler
from kubeautoml_trainer.models.torch_memory import free_bytes

_RESIDENT_SHARE = 0.3  # of the free memory that pictures may take; the rest is for the network; a guess
_AHEAD = 3  # batches read before they are asked for
_BLOCK_BYTES = 1 << 26  # of pictures scaled at once


class Pictures:
    """Rows of pictures and numbers beside them, as batches on the device.

    Args:
        pictures: object (n,), uint8 arrays of one shape (height, width, channels), or None.
        numbers: float32 (n, k).
        shape: (height, width, channels) of each.
        scaler: brings them to the network's size.
        resident: whether all are kept on the device; None asks how much memory is free.
    """

    def __init__(
        self,
        pictures: np.ndarray,
        numbers: np.ndarray,
        shape: tuple[int, int, int],
        scaler: Scaler,
        device: torch.device,
        resident: bool | None = None,
    ) -> None:
        self._pictures, self._shape, self._device = pictures, shape, device
        self._scaler = scaler.to(device)
        self._numbers = torch.as_tensor(numbers, dtype=torch.float32, device=device)
        self._kept: Tensor | None = None
        size = len(pictures) * self.row_bytes
        if resident if resident is not None else size < _RESIDENT_SHARE * free_bytes(device):
            block = max(1, _BLOCK_BYTES // max(1, int(np.prod(shape))))
            parts = [
                self._scaled(self._read(np.arange(k, min(k + block, len(self))))) for k in range(0, len(self), block)
            ]
            self._kept = torch.cat(parts)

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def is_resident(self) -> bool:
        return self._kept is not None

    @property
    def row_bytes(self) -> int:
        """Of a picture in the network's size."""
        height, width, channels = self._shape
        if self._scaler.changes:
            height, width = int(self._scaler.down.shape[0]), int(self._scaler.across.shape[1])
        return height * width * channels

    def batches(self, orders: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """For each int64 (b,) on the device: uint8 (b, channels, height, width) and float32 (b, k)."""
        if self._kept is not None:
            for order in orders:
                yield self._kept[order], self._numbers[order]
            return
        for order, read in zip(orders, self._ahead([o.cpu().numpy() for o in orders]), strict=True):
            yield self._scaled(read), self._numbers[order]

    def moments(self, most: int = 4096) -> tuple[Tensor, Tensor]:
        """Mean and deviation by channel, float32 (channels,), from 0 to 1, of every so-manieth picture."""
        some = torch.arange(0, len(self), max(1, len(self) // most), device=self._device)
        sums, squares = (
            torch.zeros(self._shape[2], dtype=torch.float64),
            torch.zeros(self._shape[2], dtype=torch.float64),
        )
        count = 0
        for pictures, _ in self.batches(torch.split(some, 256)):
            x = pictures.double() / 255.0
            sums += x.sum(dim=(0, 2, 3)).cpu()
            squares += x.square().sum(dim=(0, 2, 3)).cpu()
            count += x.shape[0] * x.shape[2] * x.shape[3]
        mean = sums / max(1, count)
        deviation = (squares / max(1, count) - mean.square()).clamp_min(0).sqrt()
        return mean.float(), deviation.float()

    def _read(self, rows: np.ndarray) -> Tensor:
        """uint8 (b, height, width, channels), on the CPU."""
        read = np.zeros((len(rows), *self._shape), dtype=np.uint8)
        for k, row in enumerate(rows):
            if self._pictures[row] is not None:
                read[k] = self._pictures[row]
        tensor = torch.from_numpy(read)
        return tensor.pin_memory() if self._device.type == "cuda" else tensor

    @torch.no_grad()
    def _scaled(self, read: Tensor) -> Tensor:
        x = read.to(self._device, non_blocking=True)
        if not self._scaler.changes:
            return x.permute(0, 3, 1, 2).contiguous()
        scaled: Tensor = self._scaler(x).to(torch.uint8)
        return scaled

    def _ahead(self, orders: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """What `_read` gives of each, read by a thread while the device computes."""
        ready: queue.Queue[Tensor | BaseException] = queue.Queue(_AHEAD)
        stop = threading.Event()

        def put(item: Tensor | BaseException) -> None:
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.2)
                except queue.Full:
                    continue
                return

        def read_all() -> None:
            try:
                for order in orders:
                    if stop.is_set():
                        return
                    put(self._read(order))
            except BaseException as error:  # noqa: BLE001  # raised where the batch is wanted
                put(error)

        thread = threading.Thread(target=read_all, name="read-pictures", daemon=True)
        thread.start()
        try:
            for _ in orders:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            thread.join()
