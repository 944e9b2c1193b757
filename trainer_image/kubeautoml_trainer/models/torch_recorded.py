"""Steps of a training recorded on the device and played again, where launching its kernels one by one takes longer than they do.

A small network's step is hundreds of kernels of microseconds each; a processor launches one in about ten. A CUDA graph of them all is
launched at once, computes the same numbers from the same random ones, and the device is never idle for want of work.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from kubeautoml_trainer.models.torch_memory import is_out_of_memory
from kubeautoml_trainer.models.torch_training import Inputs

log = logging.getLogger("kubeautoml.worker")

_FIRST = 10  # steps of a kind that are computed as usual: kernels are chosen and loaded in them, and a few more repay no recording
_MOST = 8  # recordings of a training; each kind of step has one, and keeps memory of its own

Learn = Callable[[Tensor, Inputs, str], Tensor]
"""(positions int64 (b,), raw inputs, kind of augmentation) -> the loss; gradients are in the parameters."""


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Work inside is queued apart from the device's default stream, of which nothing can be recorded. Elsewhere than on CUDA: nothing."""
    if device.type != "cuda":
        yield
        return
    outer, own = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    own.wait_stream(outer)
    try:
        with torch.cuda.stream(own):
            yield
    finally:
        outer.wait_stream(own)


@dataclass(frozen=True)
class _Recording:
    """Tensors that the graph reads, and those that it writes."""

    graph: torch.cuda.CUDAGraph
    order: Tensor
    raw: Inputs
    gradients: list[Tensor | None]
    loss: Tensor


class RecordedSteps:
    """Does what `learn` does; after the first steps of a shape and kind by playing a recording. Used inside `own_stream`.

    Args:
        learn: computes on the device alone: no value of it is read by the processor, and shapes decide what is done.
        parameters: those that get gradients.
        chance: the generator, on the device, that `learn` draws from beside the device's own.
    """

    def __init__(self, learn: Learn, parameters: Sequence[Tensor], chance: torch.Generator) -> None:
        self._learn, self._parameters, self._chance = learn, parameters, chance
        self._seen: Counter[tuple[object, ...]] = Counter()
        self._recordings: dict[tuple[object, ...], _Recording] = {}
        self._is_given_up = False

    def __call__(self, order: Tensor, raw: Inputs, kind: str) -> Tensor:
        key = (kind, order.shape, *((t.shape, t.dtype) for t in raw))
        recording = self._recordings.get(key)
        if recording is None:
            self._seen[key] += 1
            if self._is_given_up or self._seen[key] <= _FIRST or len(self._recordings) == _MOST:
                return self._learn(order, raw, kind)
            recording = self._record(order, raw, kind)
            if recording is None:
                return self._learn(order, raw, kind)
            self._recordings[key] = recording
        for mine, given in zip((recording.order, *recording.raw), (order, *raw), strict=True):
            mine.copy_(given)
        recording.graph.replay()
        for parameter, gradient in zip(self._parameters, recording.gradients, strict=True):
            parameter.grad = gradient
        return recording.loss

    def _record(self, order: Tensor, raw: Inputs, kind: str) -> _Recording | None:
        """Nothing is computed yet. None where it is not possible, now and later."""
        graph, order, raw = torch.cuda.CUDAGraph(), order.clone(), tuple(t.clone() for t in raw)
        graph.register_generator_state(self._chance)
        for parameter in self._parameters:
            parameter.grad = None  # the recorded step allocates its own, at addresses that stay
        generators = self._chance, torch.cuda.default_generators[self._chance.device.index or 0]
        before = [g.clone_state() for g in generators]
        try:
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
                loss = self._learn(order, raw, kind)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            log.warning("steps are not recorded", extra={"error": str(error)[:300]})
            self._is_given_up = True
            for generator, state in zip(generators, before, strict=True):
                generator.graphsafe_set_state(
                    state.graphsafe_get_state()
                )  # a recording that fails leaves them unusable
            return None
        return _Recording(graph, order, raw, [p.grad for p in self._parameters], loss)
