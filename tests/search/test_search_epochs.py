"""Fits that report their epochs: words for the status, a state for the next attempt, an early end for the hopeless."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from kubeautoml.api.trials import StudyOrders, TrialAttr
from kubeautoml.storage import open_store
from kubeautoml.study import carry_out_orders
from kubeautoml.study.summary import running
from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.models.space import Parameters
from kubeautoml_trainer.search.checkpoint import Checkpoint
from kubeautoml_trainer.search.epochs import FitWatch, is_hopeless
from kubeautoml_trainer.search.plan import Entry
from kubeautoml_trainer.search.signals import Terminated
from kubeautoml_trainer.search.space import FAMILY
from search.fakes import FakeFamily, make_context, make_limits, make_loop, open_job_study

ENTRY = Entry("Fake", {"rate": 0.1})


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_checkpoint(folder: Path, *, is_retry: bool, entry: Entry = ENTRY) -> Checkpoint:
    context = make_context(folder)
    return Checkpoint(open_store(context.job.output.uri), context.job.paths, 0, entry, folder / "s", is_retry=is_retry)


def make_watch(folder: Path, clock: Clock, said: list[str] | None = None, rungs: list[float] | None = None) -> FitWatch:
    return FitWatch(
        trial=3,
        fold=0,
        keeps=make_checkpoint(folder, is_retry=False),
        say=(said if said is not None else []).append,
        decide=lambda rung, value: (rungs if rungs is not None else []).append(rung),
        clock=clock,
    )


def make_rival(rungs: dict[str, float], family: str = "ConvNet", state: TrialState = TrialState.COMPLETE):
    return create_trial(
        state=state,
        value=0.5 if state is TrialState.COMPLETE else None,
        params={FAMILY: family},
        distributions={FAMILY: CategoricalDistribution(["ConvNet", "Other"])},
        user_attrs={TrialAttr.RUNGS.value: rungs},
    )


def test_a_long_fit_says_where_it_is_every_ten_seconds(tmp_path: Path) -> None:
    """Not at each epoch, which would be a write each."""
    clock, said = Clock(), []
    watch = make_watch(tmp_path, clock, said)

    for epoch in range(1, 7):
        clock.now += 4.0
        watch.report(epoch, 12, 0.5, 1900.4)

    assert said == ["epoch 3 of 12, 1,900 rows a second", "epoch 6 of 12, 1,900 rows a second"]


def test_the_status_knows_what_a_running_trial_does(tmp_path: Path) -> None:
    """As its worker wrote it."""
    study = open_job_study(make_context(tmp_path))
    trial = study.ask()
    trial.set_user_attr(TrialAttr.DOING, "epoch 4 of 12, 1,900 rows a second")

    assert running(study.get_trials()[0]).doing == "epoch 4 of 12, 1,900 rows a second"


def test_rungs_are_passed_once_and_not_at_the_end(tmp_path: Path) -> None:
    """A quarter and a half of the epochs; what has come to its end is judged as a whole."""
    rungs: list[float] = []
    watch = make_watch(tmp_path, Clock(), rungs=rungs)

    for epoch in range(1, 9):
        watch.report(epoch, 8, 0.5, 100.0)
    make_watch(tmp_path, Clock(), rungs=rungs).report(1, 1, 0.5, 100.0)
    make_watch(tmp_path, Clock(), rungs=rungs).report(4, 8, None, 100.0)

    assert rungs == [0.25, 0.5]


@pytest.mark.parametrize(("value", "hopeless"), [(0.25, False), (0.35, True)])
def test_a_trial_that_most_of_its_family_beat_at_a_rung_is_hopeless(value: float, hopeless: bool) -> None:
    """Of 0.1, 0.2, 0.3 and 0.4 half beat 0.25, most beat 0.35."""
    trials = [make_rival({"0.25": v}) for v in (0.1, 0.2, 0.3, 0.4)]

    assert is_hopeless(trials, "ConvNet", 0.25, value) is hopeless


def test_few_rivals_end_nobody() -> None:
    """Other families, other rungs and trials without an end are no rivals."""
    good = {"0.25": 0.1}
    others = [make_rival(good, "Other"), make_rival({"0.5": 0.1}), make_rival(good, state=TrialState.PRUNED)]

    assert not is_hopeless([make_rival(good)] * 3 + others * 3, "ConvNet", 0.25, 9.0)


def test_a_state_is_made_seldom_and_stored_more_seldom(tmp_path: Path) -> None:
    """Ready every two seconds, stored every thirty; the next attempt finds the last that was stored."""
    clock, made = Clock(), []
    watch = make_watch(tmp_path, clock)

    def make() -> bytes:
        made.append(clock.now)
        return str(clock.now).encode()

    for _ in range(40):
        clock.now += 1.0
        watch.keep(make)

    assert made == [102.0 + 2 * k for k in range(20)]
    assert make_checkpoint(tmp_path, is_retry=True).state(0) == b"130.0"
    assert make_checkpoint(tmp_path, is_retry=False).state(0) is None
    assert make_checkpoint(tmp_path, is_retry=True).state(1) is None


def test_a_state_that_takes_long_to_make_is_made_less_often(tmp_path: Path) -> None:
    """Never more than a fiftieth of the time."""
    clock, made = Clock(), []
    watch = make_watch(tmp_path, clock)

    def make() -> bytes:
        clock.now += 0.5
        made.append(clock.now)
        return b"state"

    for _ in range(100):
        clock.now += 1.0
        watch.keep(make)

    assert len(made) in (4, 5)


@pytest.mark.parametrize("damage", [b"", b"no digest", b"0" * 64 + b"\nstate"])
def test_a_damaged_state_is_none(tmp_path: Path, damage: bytes) -> None:
    """The fit begins anew, and nothing is wrong."""
    context = make_context(tmp_path)
    make_checkpoint(tmp_path, is_retry=False).keep_state(0, b"state", now=True)
    store, uri = open_store(context.job.output.uri), context.job.paths.fit_state(0, 0)
    assert make_checkpoint(tmp_path, is_retry=True).state(0) == b"state"

    store.write(uri, damage)

    assert make_checkpoint(tmp_path, is_retry=True).state(0) is None


def test_a_state_of_other_parameters_is_none(tmp_path: Path) -> None:
    """A retry has the same parameters; anything else there is somebody else's."""
    make_checkpoint(tmp_path, is_retry=False).keep_state(0, b"state", now=True)

    assert make_checkpoint(tmp_path, is_retry=True, entry=Entry("Fake", {"rate": 0.2})).state(0) is None


def test_sigterm_in_a_fit_stores_its_state_for_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another pod; when the trial is complete nothing is left in the bucket."""
    monkeypatch.setattr("kubeautoml_trainer.search.loop.WORTH_KEEPING_SECONDS", 0.0)
    monkeypatch.setattr("kubeautoml_trainer.search.epochs.SNAPSHOT_SECONDS", 0.0)
    first, second = make_context(tmp_path, "pod-1"), make_context(tmp_path, "pod-2")
    study = open_job_study(first, make_limits(max_trials=1))
    found: list[bytes | None] = []

    def interrupted(parameters: Parameters, context: FitContext) -> None:
        context.progress.keep(lambda: b"half-way")
        loop.guard.on_signal(signal.SIGTERM, None)

    def resumed(parameters: Parameters, context: FitContext) -> None:
        found.append(context.progress.stored())

    loop = make_loop(first, (FakeFamily(on_fit=interrupted),), study)
    with pytest.raises(Terminated):
        loop.run()
    carry_out_orders(study._storage, study.study_name, StudyOrders())
    make_loop(second, (FakeFamily(on_fit=resumed),), study).run()

    assert found == [b"half-way", None, None]
    assert open_store(first.job.output.uri).find(first.job.paths.checkpoint()) == []


def run_search(folder: Path, pruner: str) -> tuple[optuna.Study, list[int]]:
    """Nine trials that report two epochs of eight each; all but the last are alike, and that one is worse at once."""
    context = make_context(folder, pruner={"type": pruner}, sampler={"type": "Random"})
    study = open_job_study(context, make_limits(max_trials=9))
    seen: list[int] = []

    def on_fit(parameters: Parameters, fit: FitContext) -> None:
        number = len(study.get_trials(deepcopy=False)) - 1
        value = 0.9 if number == 8 else 0.1 + number / 1000
        for epoch in range(1, 9):
            fit.progress.report(epoch, 8, value, 100.0)
        seen.append(number)

    make_loop(context, (replace(FakeFamily(), on_fit=on_fit),), study).run()
    return study, seen


def test_a_trial_far_behind_its_family_ends_within_its_first_fit(tmp_path: Path) -> None:
    """Pruned, before the fit came back."""
    study, seen = run_search(tmp_path, "Auto")

    assert study.get_trials()[8].state is TrialState.PRUNED
    assert 8 not in seen
    assert set(study.get_trials()[0].user_attrs[TrialAttr.RUNGS]) == {"0.25", "0.5"}


def test_a_job_without_pruning_lets_every_trial_come_to_its_end(tmp_path: Path) -> None:
    """pruner.type None."""
    study, seen = run_search(tmp_path, "None")

    assert {t.state for t in study.get_trials()} == {TrialState.COMPLETE}
    assert seen.count(8) == 3
