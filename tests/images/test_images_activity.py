"""What a worker is doing, from its sentence to the job's status."""

from __future__ import annotations

from pathlib import Path

import optuna

from data.data_factories import make_context
from factories import NOON, make_job, make_observed, make_summary
from images.image_factories import make_folders, make_image_job
from kubeautoml.api.conditions import ConditionType, find_condition
from kubeautoml.api.errors import StudyError
from kubeautoml.api.trials import StudyAttr
from kubeautoml.plan import plan
from kubeautoml.plan.base import Settings
from kubeautoml.plan.status import worth_publishing
from kubeautoml.study.summary import load_summary
from kubeautoml_trainer.activity import EVERY_SECONDS, Activity, study_activity
from kubeautoml_trainer.data.prepare import prepare

SETTINGS = Settings(study_url="grpc://study:13000")


def test_sentences_are_told_now_and_then():
    """The first at once, then as often as somebody looks; a count with what is done in a second."""
    told: list[str] = []
    time = [0.0]
    activity = Activity(told.append, clock=lambda: time[0])
    counted = activity.counted("caching images")

    for second in range(12):
        time[0] = float(second)
        counted(100 * (second + 1), 6000)
    activity.tell("", now=True)

    assert EVERY_SECONDS == 5.0
    assert told == [
        "caching images: 100 of 6,000",
        "caching images: 600 of 6,000, 120 a second",
        "caching images: 1,100 of 6,000, 110 a second",
        "",
    ]


def test_a_study_that_is_away_does_not_stop_the_work():
    """The sentence is lost, and no more."""

    tried = []

    def write(words: str) -> None:
        tried.append(words)
        raise StudyError("away")

    Activity(write).tell("caching images", now=True)

    assert tried == ["caching images"]


def test_reading_images_is_told_to_the_study(tmp_path: Path):
    """The operator finds the worker's last sentence in the summary."""
    make_folders(tmp_path / "train")
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage, study_name="s")

    prepare(make_context(make_image_job(tmp_path), tmp_path), activity=study_activity(study))

    summary = load_summary(storage, "s")
    assert summary is not None
    assert summary.activity.startswith("fetching and caching images: ")
    assert study.user_attrs[StudyAttr.ACTIVITY.value] == summary.activity


def test_the_status_says_what_the_workers_do():
    """Before the first trial, beside the data; a trial has a sentence of its own."""
    study = make_summary(activity="caching images: 1,200 of 60,000")

    todo = plan(make_job(), make_observed(study=study), now=NOON, settings=SETTINGS)

    said = {c.type: c.message for c in todo.status.conditions}
    assert said["DataReady"] == "caching images: 1,200 of 60,000"


def test_other_words_are_published_as_seldom_as_a_few_trials():
    """News within the minute, but not with each look."""
    job = make_job()
    first, other = (
        plan(job, make_observed(study=make_summary(activity=words)), now=NOON, settings=SETTINGS).status
        for words in "ab"
    )

    def after(seconds: float) -> bool:
        used = other.budget_used.model_copy(
            update={"duration_seconds": first.budget_used.duration_seconds + int(seconds)}
        )
        new = other.model_copy(update={"budget_used": used})
        return worth_publishing(first, new, SETTINGS) is new

    assert find_condition(first.conditions, ConditionType.DATA_READY) != find_condition(
        other.conditions, ConditionType.DATA_READY
    )
    assert [after(s) for s in (5, 29, 30)] == [False, False, True]
