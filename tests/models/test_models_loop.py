"""The training loop: it learns, keeps its time, resumes to the last bit, and finds what memory holds."""

import logging
import math
import multiprocessing
import time
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Schema
from kubeautoml_trainer.models import torch_loop, torch_memory
from kubeautoml_trainer.models.base import FitContext, FitTimeout, Unwatched
from kubeautoml_trainer.models.torch_augment import Augmentation, augmented
from kubeautoml_trainer.models.torch_conv import Architecture, ConvNet
from kubeautoml_trainer.models.torch_lesson import Settings, Training, Validation
from kubeautoml_trainer.models.torch_loop import outputs, train
from kubeautoml_trainer.models.torch_memory import fitting_rows, free_bytes, row_bytes
from kubeautoml_trainer.models.torch_optimisers import Nesterov, parameter_groups
from kubeautoml_trainer.models.torch_parallel import ALONE, everywhere
from kubeautoml_trainer.models.torch_rate import range_test
from kubeautoml_trainer.models.torch_schedule import Schedule
from kubeautoml_trainer.models.torch_state import StateError, packed, unpacked
from kubeautoml_trainer.models.torch_training import fit_loss
from kubeautoml_trainer.tasks import task_for

CPU = torch.device("cpu")
SCHEMA = Schema("t", (), ("dark", "left", "right"))
QUICK = Settings(epochs=6, batch=16, rate=0.01, patience=10)


class Stored:
    """Examples in memory."""

    def __init__(self, x: torch.Tensor, extra: torch.Tensor | None = None) -> None:
        self.x, self.extra = x, torch.zeros(len(x), 0) if extra is None else extra

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, orders):
        for order in orders:
            yield self.x[order], self.extra[order]


class Watching(Unwatched):
    """Keeps every state, and may interrupt."""

    def __init__(self, start: bytes | None = None, stop_at: int | None = None) -> None:
        self.start, self.stop_at = start, stop_at
        self.states: list[bytes] = []
        self.reports: list[tuple] = []

    def report(self, *told) -> None:
        self.reports.append(told)

    def stored(self) -> bytes | None:
        return self.start

    def keep(self, make) -> None:
        self.states.append(make())
        if len(self.states) == self.stop_at:
            raise KeyboardInterrupt


def make_pictures(n: int = 96, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Grey noise of 8 x 8, with a light left or right half, or none."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=generator)
    x = 0.5 * torch.rand(n, 1, 8, 8, generator=generator)
    x[y == 1, :, :, :4] += 0.4
    x[y == 2, :, :, 4:] += 0.4
    return x, y


def make_net(seed: int = 0, **changes) -> ConvNet:
    torch.manual_seed(seed)
    given = {"channels": 1, "side": 8, "numbers": 0, "outputs": 3, "width": 8, "dropout": 0.1, **changes}
    return ConvNet(Architecture(**given))


def make_context(**changes) -> FitContext:
    task = task_for(TaskType.TABULAR_CLASSIFICATION, SCHEMA)
    given = {
        "task": task,
        "metric": "Accuracy",
        "seed": 5,
        "threads": 1,
        "deadline": time.monotonic() + 1000,
        **changes,
    }
    return FitContext(**given)


@dataclass(frozen=True)
class Augmented:
    """Pictures that are numbers from 0 to 1 already."""

    how: Augmentation

    def kind(self, draw):
        return self.how.blend(draw)

    def augment(self, raw, generator, kind):
        pictures, blend = augmented(raw[0], self.how, kind, generator)
        return (pictures, raw[1]), blend

    def plain(self, raw):
        return raw


def make_training(context: FitContext, weight: torch.Tensor | None = None, how: Augmentation | None = None) -> Training:
    x, y = make_pictures()
    how = how or Augmentation(shift=0.1, mixup=0.3)

    return Training(
        Stored(x), y, torch.ones(len(x)) if weight is None else weight, fit_loss(None, context, 0.1), Augmented(how)
    )


def make_validation() -> Validation:
    x, y = make_pictures(48, seed=1)

    def judge(out: np.ndarray) -> float:
        return float(nn.functional.cross_entropy(torch.from_numpy(out), y))

    return Validation(Stored(x), judge)


def groups(net: nn.Module):
    return parameter_groups(net.named_parameters())


def run(net: nn.Module | None = None, settings: Settings = QUICK, validation: Validation | None = None, **changes):
    net, context = net or make_net(), make_context(**changes)
    return net, train(net, groups, make_training(context), validation, settings, context, CPU)


def weights_of(net: nn.Module) -> list[torch.Tensor]:
    return list(net.state_dict().values())


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights_of(one), weights_of(other), strict=True))


@pytest.mark.parametrize("optimiser", ["adamw", "nesterov"])
@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
def test_a_network_learns(optimiser, schedule):
    """Nine of ten fresh pictures are told apart, and the best epoch's weights are what is left."""
    validation = make_validation()

    net, trained = run(settings=replace(QUICK, optimiser=optimiser, schedule=schedule), validation=validation)

    out = outputs(net, validation.examples, lambda raw: raw, CPU)
    assert (out.argmax(axis=1) == make_pictures(48, seed=1)[1].numpy()).mean() > 0.9
    assert 1 <= trained.epoch <= 6
    assert validation.judge(out) == pytest.approx(trained.value, abs=0.02)  # what steers is computed with fewer bits


def test_every_epoch_is_reported():
    """Which it is, of how many, its validation loss and the pace."""
    watching = Watching()

    run(validation=make_validation(), progress=watching)

    assert [told[:2] for told in watching.reports] == [(k, 6) for k in range(1, 7)]
    assert all(value > 0 and pace > 0 for _, _, value, pace in watching.reports)


def test_the_same_seed_gives_the_same_network():
    """To the last bit; another seed gives another one."""
    (first, _), (second, _), (other, _) = run(), run(), run(seed=6)

    assert same(first, second) and not same(first, other)


@pytest.mark.parametrize("stop_at", [2, 6, 21], ids=["first epoch", "end of an epoch", "late"])
@pytest.mark.parametrize("optimiser", ["adamw", "nesterov"])
def test_interrupted_and_resumed_is_the_same_as_uninterrupted(stop_at, optimiser):
    """To the last bit: weights, averages, optimiser, schedule, generators and the best epoch; dropout and mixup included."""
    settings = replace(QUICK, optimiser=optimiser)
    whole, end = run(settings=settings, validation=make_validation())
    watching = Watching(stop_at=stop_at)
    with pytest.raises(KeyboardInterrupt):
        run(settings=settings, validation=make_validation(), progress=watching)

    resuming = Watching(start=watching.states[-1])
    resumed, trained = run(make_net(), settings, make_validation(), progress=resuming)

    assert same(whole, resumed)
    assert (trained.epoch, trained.value) == (end.epoch, end.value)
    assert len(resuming.states) < 36 - stop_at


@pytest.mark.parametrize("kind", ["foreign", "damaged"])
def test_a_state_that_is_not_of_this_training_is_passed_over(kind):
    """It begins anew, and comes to what it would have come to."""
    whole, _ = run()
    watching = Watching(stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        run(settings=replace(QUICK, rate=0.02), progress=watching)
    state = watching.states[-1] if kind == "foreign" else watching.states[-1][:200]

    fresh, _ = run(progress=Watching(start=state))

    assert same(whole, fresh)


def test_states_hold_no_pickle_and_are_refused_under_another_name():
    """Safetensors with counters beside it."""
    state = packed({"a": torch.ones(2)}, {"epoch": 3}, "mine")

    tensors, counters = unpacked(state, "mine")

    assert torch.equal(tensors["a"], torch.ones(2)) and counters == {"epoch": 3}
    with pytest.raises(StateError, match="another training"):
        unpacked(state, "theirs")
    with pytest.raises(StateError, match="cannot be read"):
        unpacked(b"\x80\x04 pickled?", "mine")


def test_rows_that_weigh_nothing_teach_nothing():
    """A network that never counts one class never says it."""
    context = make_context()
    _, y = make_pictures()
    net = make_net()

    train(net, groups, make_training(context, (y != 1).float()), None, QUICK, context, CPU)

    x, truth = make_pictures(48, seed=1)
    assert (outputs(net, Stored(x), lambda raw: raw, CPU).argmax(axis=1) != 1).all()
    assert (truth == 1).any()


class Clock:
    """Moves by itself, a second a look."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def pace_through(schedule: Schedule, clock: Clock, seconds: float, most: int = 10_000) -> list[float]:
    """Make steps of so many seconds until the schedule is over."""
    seen = []
    while not schedule.is_over and len(seen) < most:
        seen.append(schedule.step())
        clock.now += seconds
    return seen


def test_a_schedule_with_time_enough_follows_its_steps():
    """Nothing depends on the clock."""
    clock = Clock()

    seen = pace_through(Schedule(4, deadline=1e9, clock=clock), clock, 1.0)

    assert seen == [0.125, 0.375, 0.625, 0.875]


def test_a_schedule_that_does_not_fit_ends_in_time_and_at_its_end():
    """A thousand steps of a second in a hundred: the last steps are near 1, so the rate is near 0 when time is up."""
    clock = Clock()
    schedule = Schedule(1000, deadline=100.0, clock=clock)

    seen = pace_through(schedule, clock, 1.0)

    assert clock.now <= 100.0
    assert schedule.is_short and schedule.reached == 1.0 and seen[-1] > 0.95
    assert all(a < b for a, b in pairwise(seen))
    assert len(seen) > 80


def test_a_schedule_keeps_time_for_what_comes_after():
    """Seconds for the last validation, guessed before one was seen, and for writing the network."""
    clock = Clock()
    schedule = Schedule(1000, deadline=100.0, afterwards=10.0, validation=5, every=50, clock=clock)

    pace_through(schedule, clock, 1.0)

    assert 60 < clock.now <= 85


def test_a_step_that_would_pass_the_deadline_is_not_begun():
    """Long steps, of which too few are made to know the pace: a third would come back too late."""
    clock = Clock()
    schedule = Schedule(50, deadline=10.5, validation=0.5, every=5, clock=clock)

    seen = pace_through(schedule, clock, 4.0)

    assert len(seen) == 2 and clock.now == 8.0


def test_a_machine_that_slows_down_still_comes_to_the_end():
    """Steps that take three times as long from the middle on."""
    clock = Clock()
    schedule = Schedule(80, deadline=100.0, clock=clock)
    pace_through(schedule, clock, 1.0, most=40)

    seen = pace_through(schedule, clock, 3.0)

    assert clock.now <= 103.0 and seen[-1] > 0.9


def test_a_deadline_gives_a_short_and_annealed_training():
    """A training for hours comes back with what it has, in time for what is left."""
    began = time.monotonic()

    _, trained = run(settings=replace(QUICK, epochs=100_000), validation=make_validation(), deadline=began + 3.0)

    assert time.monotonic() < began + 3.5
    assert trained.epoch >= 1


def test_no_time_for_a_step_is_said():
    """FitTimeout, so that the search knows that time and not the parameters are to blame."""
    with pytest.raises(FitTimeout, match="maxDurationSeconds"):
        run(deadline=time.monotonic() - 1)


def test_a_validation_that_gets_no_better_ends_the_training():
    """Long before the last epoch."""
    x, _ = make_pictures(8)
    losses = iter([1.0, *[2.0] * 1000])
    watching = Watching()

    _, trained = run(
        settings=replace(QUICK, epochs=40, patience=3),
        validation=Validation(Stored(x), lambda out: next(losses)),
        progress=watching,
    )

    assert trained.epoch == 1 and 4 <= len(watching.reports) <= 6


def test_a_loss_that_is_no_number_is_said():
    """Not a model of nothing."""
    with pytest.raises(ArithmeticError, match="learning rate"):
        run(settings=replace(QUICK, rate=1e30, clip=1e30, optimiser="nesterov"), validation=make_validation())


def test_memory_that_is_too_small_halves_what_is_computed_at_once(monkeypatch, caplog):
    """The batch stays, so the training is the same one; the finding is kept for the next."""
    monkeypatch.setattr(torch_memory, "_found", {})
    plain, _ = run(make_net(norm="group", dropout=0.0))
    tight = make_net(norm="group", dropout=0.0)
    tight.register_forward_pre_hook(refuse_more_than(4))

    with caplog.at_level(logging.WARNING):
        _, trained = run(tight)
    _, again = run(make_net(norm="group", dropout=0.0))

    assert (trained.at_once, again.at_once) == (4, 4)
    assert caplog.text.count("out of memory") == 2
    assert all(torch.isfinite(t).all() for t in weights_of(tight))
    assert not same(plain, tight)  # pictures are augmented part by part


def refuse_more_than(rows: int):
    def refuse(module, inputs):
        if module.training and len(inputs[0]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return refuse


def test_parts_of_a_batch_add_up_to_the_batch(monkeypatch):
    """Without chance, gradients of parts are those of the whole, to rounding; weights of rows included."""
    context = make_context()
    training = make_training(context, torch.linspace(0.1, 2, 96), Augmentation())
    found = []
    for at_once in (16, 5):
        net = make_net(norm="group", dropout=0.0)
        order = torch.arange(16)
        raw = next(iter(training.examples.batches([order])))
        torch_loop._learn(net, training, torch_loop.ALONE, order, raw, "", torch.Generator(), at_once, None)
        found.append(torch.cat([p.grad.flatten() for p in net.parameters()]))

    assert torch.allclose(found[0], found[1], atol=1e-6)


def test_another_error_is_not_taken_for_memory():
    """It fails the trial."""
    net = make_net()

    def break_down(module, inputs):
        raise RuntimeError("shapes do not match")

    net.body[0].register_forward_pre_hook(break_down)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(net)


def test_a_fit_that_cannot_fit_memory_is_shrunk_before_it_starts():
    """By what a row keeps for the way back, and what the weights take."""
    net = make_net(norm="group")
    row = row_bytes(net, (torch.zeros(2, 1, 8, 8), torch.zeros(2, 0)))

    assert 10_000 < row < 100_000
    assert fitting_rows(64, row, 0, CPU, free=100 * row) == 64
    assert fitting_rows(64, row, 0, CPU, free=30 * row) == 16
    assert fitting_rows(64, row, 10**9, CPU, free=10) == 1


def test_measuring_a_row_leaves_the_network_as_it_was():
    """Also what batch normalisation has counted."""
    net, before = make_net(), weights_of(make_net())

    row_bytes(net, (torch.rand(2, 1, 8, 8), torch.zeros(2, 0)))

    assert all(torch.equal(a, b) for a, b in zip(weights_of(net), before, strict=True))


def test_free_memory_is_the_lesser_of_the_machines_and_the_containers(tmp_path):
    """A limit of cgroup version 2, "max" for none."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       8000 kB\nMemAvailable:   4000 kB\n")
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")

    limited = free_bytes(CPU, tmp_path, meminfo)
    (tmp_path / "memory.max").write_text("max\n")

    assert limited == 2_000_000
    assert free_bytes(CPU, tmp_path, meminfo) == 4_096_000


def test_nesterovs_momentum_is_torchs():
    """To rounding, over steps with another rate each, for two groups of which one decays."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(7, 5, generator=generator) for _ in range(3)]
    own, theirs = ([t.clone().requires_grad_() for t in start] for _ in range(2))

    def made(tensors):
        first = {"params": tensors[:2], "lr": 0.1, "weight_decay": 0.02}
        return [first, {"params": tensors[2:], "lr": 0.3, "weight_decay": 0.0}]

    mine, real = Nesterov(made(own)), torch.optim.SGD(made(theirs), momentum=0.9, nesterov=True)

    for step in range(5):
        for optimiser, tensors in ((mine, own), (real, theirs)):
            optimiser.param_groups[0]["lr"] = 0.1 / (1 + step)
            optimiser.zero_grad()
            sum((t**2).sum() for t in tensors).backward()
            optimiser.step()

    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(own, theirs, strict=True))


def test_two_processes_come_to_what_one_does(monkeypatch):
    """With the same whole batch, by DistributedDataParallel over gloo, weights of rows included: to rounding."""
    from models.parallel_work import train_tiny

    monkeypatch.setattr(torch_loop, "autocast_type", torch_loop.autocast_type)  # the work changes it
    weight = torch.linspace(0.1, 2, 96)

    both = everywhere(train_tiny, [CPU, CPU], weight, "group")
    one = train_tiny(ALONE, CPU, weight, "group")

    assert both.keys() == one.keys()
    assert all(torch.allclose(both[name], one[name], atol=1e-4) for name in one)
    assert not torch.distributed.is_initialized()
    assert multiprocessing.active_children() == []


def test_a_range_test_stays_below_the_rate_at_which_the_loss_bursts():
    """A loss that falls until a rate of 0.01 and rises beyond it."""

    def loss_at(rate: float) -> float:
        return 1.0 + 0.5 * abs(math.log10(rate / 0.01))

    found = range_test(loss_at)

    assert found is not None and 0.0005 < found < 0.01
    assert range_test(lambda rate: 1.0 + rate) is None
    assert range_test(lambda rate: math.nan) is None


def test_a_training_that_finds_its_rate_learns(caplog):
    """Whatever it was given; a short one does not spend its time on a test."""
    hopeless = replace(QUICK, rate=1e-9, finds_rate=True, epochs=80, patience=80)
    validation = make_validation()

    with caplog.at_level(logging.INFO):
        net, _ = run(settings=hopeless, validation=validation)
        run(settings=replace(hopeless, epochs=3))

    told = outputs(net, validation.examples, lambda raw: raw, CPU).argmax(axis=1)
    assert (told == make_pictures(48, seed=1)[1].numpy()).mean() > 0.9
    assert caplog.text.count("learning rate tested") == 1
