"""A training under way: everything that changes from step to step, how it begins, and how it is kept and taken up again."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import time
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.models.early_stopping import Patience
from kubeautoml_trainer.models.torch_lesson import Lesson, Settings
from kubeautoml_trainer.models.torch_optimisers import Optimiser, make_optimiser
from kubeautoml_trainer.models.torch_schedule import Schedule
from kubeautoml_trainer.models.torch_state import StateError, packed, unpacked, with_prefix, write_into

log = logging.getLogger("kubeautoml.worker")

_MOST_LOOKS = 40  # validations of a training; more cost time and tell nothing
_VALIDATION_COST = 0.35  # what a row takes to be predicted, of what it takes to be learned: one of three passes
_AFTERWARDS, _AFTERWARDS_SHARE = 1.0, 0.1  # seconds kept for writing the network, and the most of a fit's time; guesses


@dataclass
class Run:
    """A training under way: everything that changes from step to step."""

    net: nn.Module
    averaged: nn.Module
    best: dict[str, Tensor]
    optimiser: Optimiser
    schedule: Schedule
    pairs: list[tuple[Tensor, Tensor]]
    """Averaged weights, and the present ones."""
    counts: list[tuple[Tensor, Tensor]]
    """The same for whole numbers."""
    order: torch.Generator
    chance: torch.Generator
    patience: Patience
    epoch: int = 1
    batch: int = 0
    """Batches of the epoch that are done."""
    order_before: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.uint8))
    """State of `order` when the epoch began."""
    learned: int = 0
    """Rows of the epoch, and its seconds, in this process."""
    seconds: float = 0.0
    rows_a_second: float = 0.0


def begin(lesson: Lesson) -> Run:
    net, settings, context = lesson.net, lesson.settings, lesson.context
    net.train()
    averaged = copy.deepcopy(net).eval()
    both = list(zip(averaged.state_dict().values(), net.state_dict().values(), strict=True))
    judged = 0 if lesson.validation is None else len(lesson.validation.examples)
    schedule = Schedule(
        settings.epochs * lesson.batches,
        context.deadline,
        afterwards=min(_AFTERWARDS, _AFTERWARDS_SHARE * max(0.0, context.deadline - time.monotonic())),
        validation=_VALIDATION_COST * judged * lesson.batches / max(1, len(lesson.training.examples)),
        every=lesson.batches * look_every(settings),
    )
    return Run(
        net=net,
        averaged=averaged,
        best={},
        optimiser=make_optimiser(settings.optimiser, lesson.groups(net)),
        schedule=schedule,
        pairs=[(a, b) for a, b in both if a.is_floating_point()],
        counts=[(a, b) for a, b in both if not a.is_floating_point()],
        order=torch.Generator().manual_seed(context.seed),
        chance=torch.Generator(lesson.device).manual_seed(context.seed + 1 + lesson.world.rank),
        patience=Patience(settings.patience, context.deadline),
    )


def look_every(settings: Settings) -> int:
    """Epochs from one validation to the next."""
    return max(1, math.ceil(settings.epochs / _MOST_LOOKS))


def signature_of(lesson: Lesson) -> str:
    """Names the training: states of others are refused."""
    shapes = [(name, list(t.shape)) for name, t in lesson.net.state_dict().items()]
    described = [shapes, asdict(lesson.settings), lesson.context.seed, len(lesson.training.examples)]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _tensors(run: Run) -> dict[str, Tensor]:
    """Those that are written into to set a state."""
    state = {f"optimiser.{k}": t for k, t in enumerate(run.optimiser.tensors())}
    return state | with_prefix("net.", run.net.state_dict()) | with_prefix("averaged.", run.averaged.state_dict())


def state_of(run: Run, signature: str) -> bytes:
    """Everything that decides how the training goes on."""
    generators = {"order": run.order_before, "chance": run.chance.get_state(), "torch": torch.get_rng_state()}
    if run.chance.device.type == "cuda":
        generators["cuda"] = torch.cuda.get_rng_state(run.chance.device)
    counters = {
        "epoch": run.epoch,
        "batch": run.batch,
        "done": run.schedule.done,
        "reached": run.schedule.reached,
        "isShort": run.schedule.is_short,
        "bestRound": run.patience.best_round,
        "bestLoss": run.patience.best_loss if run.best else None,
    }
    tensors = _tensors(run) | with_prefix("best.", run.best) | with_prefix("generator.", generators)
    return packed(tensors, counters, signature)


def resume(run: Run, context: FitContext, signature: str) -> None:
    """Go on where an earlier attempt was interrupted; what is of another training, or damaged, is passed over."""
    data = context.progress.stored()
    if data is None:
        return
    try:
        tensors, counters = unpacked(data, signature)
        write_into(_tensors(run), tensors)
    except StateError as error:
        log.warning("the state of a training is passed over", extra={"error": str(error)[:200]})
        return
    run.order.set_state(tensors["generator.order"])
    run.chance.set_state(tensors["generator.chance"])
    torch.set_rng_state(tensors["generator.torch"])
    if run.chance.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["generator.cuda"], run.chance.device)
    device = next(run.net.parameters()).device
    run.best = {k.removeprefix("best."): t.to(device) for k, t in tensors.items() if k.startswith("best.")}
    run.epoch, run.batch = counters["epoch"], counters["batch"]
    run.schedule.done, run.schedule.reached = counters["done"], counters["reached"]
    run.schedule.is_short = counters["isShort"]
    if run.best:
        run.patience.best_round, run.patience.best_loss = counters["bestRound"], counters["bestLoss"]
    log.info("training resumed", extra={"epoch": run.epoch, "steps": run.schedule.done})
