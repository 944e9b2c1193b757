"""The training loop of networks that learn by epochs: data, forward, loss, step, evaluate, checkpoint.

Whoever calls `train` brings the network, the examples and what a prediction is worth; how fast, how long and how carefully is in
`Settings` (all in `torch_lesson`). The result depends on the seed alone while the planned epochs fit before the deadline.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kubeautoml_trainer.models.base import FitContext, FitTimeout
from kubeautoml_trainer.models.torch_lesson import Examples, Lesson, Settings, Trained, Training, Validation
from kubeautoml_trainer.models.torch_memory import fitting_rows, is_out_of_memory, row_bytes, was_too_much, weight_bytes
from kubeautoml_trainer.models.torch_optimisers import Optimiser, make_optimiser, set_rates
from kubeautoml_trainer.models.torch_parallel import ALONE, World
from kubeautoml_trainer.models.torch_rate import STEPS, WORTH, range_test
from kubeautoml_trainer.models.torch_recorded import Learn, RecordedSteps, own_stream
from kubeautoml_trainer.models.torch_run import Run, begin, look_every, resume, signature_of, state_of
from kubeautoml_trainer.models.torch_schedule import SHAPES
from kubeautoml_trainer.models.torch_training import Inputs, Loss, limited_threads

log = logging.getLogger("kubeautoml.worker")


def train(
    net: nn.Module,
    groups: Callable[[nn.Module], list[dict[str, Any]]],
    training: Training,
    validation: Validation | None,
    settings: Settings,
    context: FitContext,
    device: torch.device,
    world: World = ALONE,
) -> Trained:
    """Train until the schedule ends, nothing gets better, or time is up; afterwards `net` has the weights of the best epoch.

    Memory that turns out too small halves the rows computed at once, and the training begins anew; the batch stays what it was.

    Args:
        groups: the network's parameters as `torch_optimisers.parameter_groups` says them.

    Raises:
        FitTimeout: the deadline came before the first step.
        ArithmeticError: the loss was no number from the start.
    """
    net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    start = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    cuda = [device.index or 0] if device.type == "cuda" else []
    # of several ways to compute a convolution, the ones that give the same bits every time
    repeatable = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with limited_threads(context.threads), torch.random.fork_rng(devices=cuda), repeatable, own_stream(device):
        torch.manual_seed(context.seed)
        batch = min(settings.batch, len(training.examples))
        probe = _first_rows(training, device)
        row = row_bytes(net, probe)
        at_once = fitting_rows(max(1, batch // world.size), row, weight_bytes(net), device)
        lesson = Lesson(net, groups, training, validation, settings, context, device, world)
        while True:
            torch.manual_seed(context.seed + world.rank)
            try:
                if lesson.settings.finds_rate and world.size == 1:
                    lesson = replace(lesson, settings=_with_rate(lesson, at_once))
                    net.load_state_dict(start)
                    torch.manual_seed(context.seed)
                return _train(lesson, at_once)
            except (RuntimeError, MemoryError) as error:
                # of several processes the others wait for this one: they end together
                if not is_out_of_memory(error) or at_once == 1 or world.size > 1:
                    raise
            at_once = was_too_much(at_once, row, device)
            net.load_state_dict(start)


def _train(lesson: Lesson, at_once: int) -> Trained:
    """The loop."""
    training, settings, context = lesson.training, lesson.settings, lesson.context
    device, world, batches = lesson.device, lesson.world, lesson.batches
    run = begin(lesson)
    signature = signature_of(lesson)
    resume(run, context, signature)
    every = look_every(settings)
    schedule, precision = run.schedule, autocast_type(device)
    learn = _learner(lesson, run, at_once, precision)
    while not world.agrees(schedule.is_over):
        run.order_before = run.order.get_state()
        orders = torch.randperm(len(training.examples), generator=run.order).to(device).tensor_split(batches)
        kinds = _kinds(lesson, run.epoch)[run.batch :]
        orders = orders[run.batch :]
        began = time.perf_counter()
        raws = training.examples.batches([world.mine(o) for o in orders])
        for order, kind, raw in zip(orders, kinds, raws, strict=True):
            progress = world.same(schedule.step())
            factor = SHAPES[settings.schedule](progress, settings.warm_up)
            set_rates(run.optimiser, settings.optimiser, settings.rate * factor, settings.decay)
            run.optimiser.zero_grad()
            learn(order, raw, kind)
            _clip(run.optimiser, settings.clip)
            run.optimiser.step()
            _average(run, settings.averaging)
            run.batch, run.learned = run.batch + 1, run.learned + len(order)
            if world.agrees(schedule.is_over):
                break
            context.progress.keep(lambda: state_of(run, signature))
        run.seconds += time.perf_counter() - began
        run.rows_a_second = run.learned / max(1e-9, run.seconds)
        is_end = world.agrees(schedule.is_over)
        if is_end or run.epoch % every == 0:
            began = time.perf_counter()
            value = _validated(run, lesson, precision) if world.rank == 0 else 0.0
            value = world.same(value)
            schedule.validated(time.perf_counter() - began)
            if not math.isfinite(value):
                break
            if run.patience.see(run.epoch, value):
                run.best = {name: tensor.clone() for name, tensor in run.averaged.state_dict().items()}
            of = run.epoch + (0 if is_end else math.ceil(schedule.left / batches))
            context.progress.report(run.epoch, of, None if lesson.validation is None else value, run.rows_a_second)
            if is_end or run.patience.is_over(run.epoch):
                break
        run.epoch, run.batch, run.learned, run.seconds = run.epoch + 1, 0, 0, 0.0
    return _finished(run, lesson, at_once)


def _kinds(lesson: Lesson, epoch: int) -> list[str]:
    """Of each batch of an epoch; the same again when a training is taken up within it."""
    chance = torch.Generator().manual_seed(hash((lesson.context.seed, epoch)))
    return [lesson.training.preparation.kind(draw) for draw in torch.rand(lesson.batches, generator=chance).tolist()]


def _learner(lesson: Lesson, run: Run, at_once: int, precision: torch.dtype | None) -> Learn:
    """What computes the gradients of a batch."""
    training, world, device = lesson.training, lesson.world, lesson.device
    parallel = world.wrap(lesson.net, device)

    def learn(order: Tensor, raw: Inputs, kind: str) -> Tensor:
        return _learn(parallel, training, world, order, raw, kind, run.chance, at_once, precision)

    if device.type != "cuda" or world.size > 1 or not training.is_steady:
        return learn
    return RecordedSteps(learn, [p for p in lesson.net.parameters() if p.requires_grad], run.chance)


def _learn(
    net: nn.Module,
    training: Training,
    world: World,
    order: Tensor,
    raw: Inputs,
    kind: str,
    chance: torch.Generator,
    at_once: int,
    precision: torch.dtype | None,
) -> Tensor:
    """Gradients of a batch: the weighted mean loss over all its rows, in as many parts as memory demands; returns the loss."""
    total = torch.zeros((), device=order.device)
    mine = world.mine(order)
    truth, weight = training.truth[mine], training.weight[mine]
    share = world.size / training.weight[order].sum().clamp_min(1e-12)  # gradients are averaged over processes
    for part in torch.split(torch.arange(len(mine), device=mine.device), at_once):
        inputs, blend = training.preparation.augment(tuple(t[part] for t in raw), chance, kind)
        with torch.autocast(mine.device.type, dtype=precision, enabled=precision is not None):
            out = net(*inputs)
        loss = _summed(training.loss, out.float(), truth[part], weight[part])
        if blend is not None:
            other = part[blend.partner]
            blended = _summed(training.loss, out.float(), truth[other], weight[other])
            loss = blend.share * loss + (1 - blend.share) * blended
        torch.autograd.backward(loss * share)
        total += (loss * share).detach()
    return total


def _with_rate(lesson: Lesson, at_once: int) -> Settings:
    """The settings with the rate of a range test, which changes the network; as they are where a test is not worth its time."""
    net, training, settings, context = lesson.net, lesson.training, lesson.settings, lesson.context
    device = lesson.device
    if settings.epochs * lesson.batches < WORTH * STEPS:
        return settings
    optimiser, chance = (
        make_optimiser(settings.optimiser, lesson.groups(net)),
        torch.Generator(device).manual_seed(context.seed),
    )
    order = torch.Generator().manual_seed(context.seed)
    size = min(settings.batch, len(training.examples))
    drawn = [torch.randperm(len(training.examples), generator=order)[:size].to(device) for _ in range(STEPS)]
    raws = zip(drawn, training.examples.batches(drawn), strict=True)
    net.train()

    def step(rate: float) -> float:
        if time.monotonic() > context.deadline:
            return math.nan
        here, raw = next(raws)
        kind = training.preparation.kind(float(torch.rand((), generator=order)))
        set_rates(optimiser, settings.optimiser, rate, settings.decay)
        optimiser.zero_grad()
        loss = _learn(net, training, ALONE, here, raw, kind, chance, at_once, autocast_type(device))
        _clip(optimiser, settings.clip)
        optimiser.step()
        return float(loss)

    found = range_test(step)
    log.info("learning rate tested", extra={"given": settings.rate, "found": found})
    return settings if found is None else replace(settings, rate=found, finds_rate=False)


def _summed(loss: Loss, out: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """The weighted sum, of a loss that gives the weighted mean."""
    return loss(out, truth, weight) * weight.sum().clamp_min(1e-12)


def _clip(optimiser: Optimiser, most: float) -> None:
    """Shorten the gradient to `most`, as one vector; parameters that nothing depends on get one of zeros."""
    every = [t for group in optimiser.param_groups for t in group["params"]]
    for tensor in every:
        if tensor.grad is None:
            tensor.grad = torch.zeros_like(tensor)
    gradients = [t.grad for t in every]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (most / (norm + 1e-6)).clamp_max(1.0))


@torch.no_grad()
def _average(run: Run, share: float) -> None:
    """Move the averaged weights towards the present ones (Polyak averaging): a mean over the last `share` of all steps."""
    expected = run.schedule.done / max(1e-9, run.schedule.reached)
    horizon = max(1.0, min(run.schedule.done, share * expected))
    torch._foreach_lerp_([a for a, _ in run.pairs], [b for _, b in run.pairs], 1.0 / horizon)
    if run.counts:
        torch._foreach_copy_([a for a, _ in run.counts], [b for _, b in run.counts])


def _validated(run: Run, lesson: Lesson, precision: torch.dtype | None) -> float:
    """The validation loss of the averaged weights; without validation rows the later epoch is the better one."""
    if lesson.validation is None:
        finite = all(bool(torch.isfinite(t).all()) for t in run.averaged.state_dict().values() if t.is_floating_point())
        return -float(run.epoch) if finite else math.nan
    said = outputs(
        run.averaged, lesson.validation.examples, lesson.training.preparation.plain, lesson.device, precision
    )
    return lesson.validation.judge(said)


@torch.no_grad()
def outputs(
    net: nn.Module,
    examples: Examples,
    plain: Callable[[Inputs], Inputs],
    device: torch.device,
    precision: torch.dtype | None = None,
    at_once: int = 512,
) -> np.ndarray:
    """What the network says of all rows, float32 (n, outputs)."""
    was_training = net.training
    net.eval()
    orders = torch.split(torch.arange(len(examples), device=device), at_once)
    with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
        parts = [net(*plain(raw)).float().cpu() for raw in examples.batches(orders)]
    net.train(was_training)
    return torch.cat(parts).numpy()


def autocast_type(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the device computes faster in it, else None; its range is float32's, so losses need no scaling."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has else None


def _finished(run: Run, lesson: Lesson, at_once: int) -> Trained:
    if not run.schedule.done:
        raise FitTimeout("no time for one step of training; give spec.budget.maxDurationSeconds more")
    if not run.best:
        raise ArithmeticError("the training's loss was no number; a smaller learning rate may help")
    lesson.net.load_state_dict(run.best)
    lesson.net.eval()
    value = None if lesson.validation is None else run.patience.best_loss
    return Trained(run.patience.best_round, value, at_once, run.rows_a_second)


def _first_rows(training: Training, device: torch.device) -> Inputs:
    two = torch.arange(min(2, len(training.examples)), device=device)
    return training.preparation.plain(next(iter(training.examples.batches([two]))))
