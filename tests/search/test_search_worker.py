"""The worker as a process: the environment in, trials and exit codes out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from factories import env_of
from kubeautoml.api.errors import DataError
from kubeautoml.api.names import Env
from kubeautoml.api.pod import PodContext, PodJob
from kubeautoml.api.trials import DataFacts, StudyAttr
from kubeautoml.storage import open_store
from kubeautoml.study import load_summary, open_study_storage, set_study_attr, study_attr
from kubeautoml_trainer.artifacts import load_pipelines
from kubeautoml_trainer.pretrained import folder_digest
from kubeautoml_trainer.search.warm_start import warm_entries
from kubeautoml_trainer.worker import has_accelerator
from models.foundation_factories import make_network, write_network
from search.fakes import FakeFamily, make_context, make_frame, make_limits, make_loop, open_job_study


def run_worker(context: PodContext, folder: Path) -> subprocess.CompletedProcess[str]:
    """`kubeautoml worker` for a pod, on the data of `make_frame` unless there is other data already."""
    data = folder / "train.csv"
    if not data.exists():
        make_frame().to_csv(data, index=False)
    env = {**os.environ, **env_of(context)}
    command = [sys.executable, "-m", "kubeautoml.cli.main", "worker"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def test_a_worker_reads_the_data_runs_trials_and_leaves_with_0(tmp_path):
    """The data's facts are in the study, a line a trial on stderr, and the stored models can be loaded."""
    context = make_context(tmp_path, families={"include": ["Dummy", "Linear"]})
    study = open_job_study(context, make_limits(max_trials=3))

    done = run_worker(context, tmp_path)

    assert done.returncode == 0, done.stderr
    facts = study_attr(study, StudyAttr.DATA)
    assert facts.read_seconds > 0 and facts.traits["logRows"] == pytest.approx(3.87, abs=0.01)
    assert (facts.rows, facts.columns, facts.holdout_rows, facts.folds, facts.classes) == (48, 1, 12, 3, None)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    trials = [line for line in lines if line["message"] == "trial completed"]
    assert [(t["trial"], t["family"]) for t in trials[:2]] == [(0, "Dummy"), (1, "Linear")]
    assert {"value", "seconds"} <= trials[0].keys()
    pipelines = load_pipelines(open_store(context.job.output.uri), context.job.paths, 1, tmp_path / "scratch")
    assert [p.family for p in pipelines] == ["Linear"] * 3


def weights(family: str, uri: str, sha256: str = 64 * "0") -> dict[str, str]:
    return {"family": family, "uri": uri, "sha256": sha256}


@pytest.mark.parametrize(
    ("search", "data", "stage", "reason"),
    [
        ({"families": {"include": ["Liner"]}}, None, "search", "InvalidSearch"),
        ({"warmStartFrom": [{"name": "gone"}]}, None, "search", "InvalidSearch"),
        ({"families": {"include": ["TabularFoundation"]}}, None, "search", "InvalidSearch"),
        ({"pretrained": [weights("Linear", "file:///w/")]}, None, "search", "InvalidSearch"),
        ({"pretrained": [weights("TabularFoundation", "file:///absent/w/")]}, None, "search", "InvalidSearch"),
        ({}, "x,z\n1,2\n3,4\n", "data", "TargetNotFound"),
    ],
)
def test_what_the_author_must_mend_is_in_the_study_and_on_one_line(tmp_path, search, data, stage, reason):
    """Exit code 1, no trial, the same sentence in both places."""
    context = make_context(tmp_path, **search)
    study = open_job_study(context, make_limits())
    if data is not None:
        (tmp_path / "train.csv").write_text(data)

    done = run_worker(context, tmp_path)

    failure = study_attr(study, StudyAttr.FAILURE)
    assert (done.returncode, failure.stage, failure.reason) == (1, stage, reason)
    assert done.stderr.splitlines()[-1] == f"error: {failure.message}"
    assert study.trials == []


def test_weights_are_checked_before_the_first_trial_and_then_take_part(tmp_path):
    """The wrong digest, then files that are no network, end the job with what to do; the right ones are learned with."""
    folder = write_network(tmp_path / "w", make_network())
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/readme").write_text("no network")
    uri, odd = f"file://{folder}/", f"file://{tmp_path / 'odd'}/"
    asked = [
        (weights("TabularFoundation", uri), f"must be the digest of {uri}, {folder_digest(folder)}, got '{64 * '0'}'"),
        (
            weights("TabularFoundation", odd, folder_digest(tmp_path / "odd")),
            f"spec.search.pretrained: {odd}: config.json",
        ),
        (weights("TabularFoundation", uri, folder_digest(folder)), None),
    ]
    for k, (given, message) in enumerate(asked):
        place = tmp_path / str(k)
        place.mkdir()
        context = make_context(place, pretrained=[given], families={"include": ["TabularFoundation"]})
        study = open_job_study(context, make_limits(max_trials=1))

        done = run_worker(context, place)

        failure = study_attr(study, StudyAttr.FAILURE)
        if message is None:
            assert (done.returncode, failure) == (0, None), done.stderr
            assert [t.params["family"] for t in study.get_trials()] == ["TabularFoundation"]
            pipelines = load_pipelines(open_store(context.job.output.uri), context.job.paths, 0, place / "scratch/m")
            assert [p.family for p in pipelines] == ["TabularFoundation"] * 3
        else:
            assert (done.returncode, failure.stage, failure.reason) == (1, "search", "InvalidSearch")
            assert message in failure.message and study.trials == []


def test_an_output_that_cannot_be_written_is_found_before_the_data_are_read(tmp_path):
    """A file stands where the folder should be; the data do not even exist."""
    context = make_context(tmp_path)
    study = open_job_study(context, make_limits())
    (tmp_path / "out").write_text("a file")
    (tmp_path / "train.csv").write_text("")

    done = run_worker(context, tmp_path)

    failure = study_attr(study, StudyAttr.FAILURE)
    assert (done.returncode, failure.stage, failure.reason) == (1, "output", "OutputNotWritable")
    assert failure.message.startswith("spec.output.uri: ")


def test_arguments_and_a_missing_environment_are_misuse(tmp_path):
    """One line each, no traceback."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("KUBEAUTOML_")}
    for arguments, words in (
        (["worker", "extra"], "usage: kubeautoml worker"),
        (["worker"], "KUBEAUTOML_JOB must be set"),
    ):
        command = [sys.executable, "-m", "kubeautoml.cli.main", *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)

        assert done.returncode == 2
        assert words in done.stderr and "Traceback" not in done.stderr


def finished_job(folder: Path, name: str, uid: str) -> optuna.Study:
    """The study of a job that has run six trials."""
    base = make_context(folder, pruner={"type": "None"})
    earlier = replace(base, job=base.job.model_copy(update={"name": name, "uid": uid}))
    study = open_job_study(earlier, make_limits(max_trials=6))
    make_loop(earlier, (FakeFamily(),), study).run()
    return study


def test_warm_start_takes_the_whole_pipelines_of_the_studies_that_the_operator_named(tmp_path):
    """In the order of the spec, best first, and with the parameters outside the search space, from the record."""
    finished_job(tmp_path, "churn", "uid-0")  # an earlier one of the same name, which is not meant
    studies = [finished_job(tmp_path, "churn", "uid-1"), finished_job(tmp_path, "leads", "uid-5")]
    context = make_context(tmp_path, "next", warmStartFrom=[{"name": "leads"}, {"name": "churn"}])
    context = replace(context, job=context.job.model_copy(update={"name": "next", "uid": "uid-2"}))
    study = open_job_study(context, make_limits())
    set_study_attr(study, StudyAttr.WARM_START, [s.study_name for s in studies])

    found = warm_entries(context, study, {"logRows": 3.9})

    best = [sorted(s.trials, key=lambda t: t.value)[:5] for s in reversed(studies)]
    assert [e.parameters["rate"] for e in found] == [t.params["Fake.rate"] for trials in best for t in trials]
    assert {"rate": 0.5, "size": 3, "hidden": 7} in [e.parameters for e in found]


def test_a_job_with_like_data_comes_before_those_named_earlier(tmp_path):
    """Jobs of which nothing is known come last, in the order in which they are named."""
    names = ("big", "alike", "old")
    studies = {name: finished_job(tmp_path, name, f"uid-{name}") for name in names}
    for name, rows in (("big", 12.0), ("alike", 4.0)):
        facts = DataFacts(48, 1, 12, 3, None, "a" * 64, traits={"logRows": rows, "missing": 0.0})
        set_study_attr(studies[name], StudyAttr.DATA, facts)
    context = make_context(tmp_path, "next", warmStartFrom=[{"name": name} for name in ("old", "big", "alike")])
    context = replace(context, job=context.job.model_copy(update={"name": "next", "uid": "uid-2"}))
    study = open_job_study(context, make_limits())
    set_study_attr(study, StudyAttr.WARM_START, [s.study_name for s in studies.values()])

    found = warm_entries(context, study, {"logRows": 3.9, "missing": 0.0})

    best = [sorted(studies[n].trials, key=lambda t: t.value)[:5] for n in ("alike", "big", "old")]
    assert [e.parameters["rate"] for e in found] == [t.params["Fake.rate"] for trials in best for t in trials]


@pytest.mark.parametrize("written", [None, [], ["team-b/churn/uid-1"], ["team-a/churns/uid-1"], ["team-a/churn/gone"]])
def test_warm_start_reads_no_study_that_the_operator_has_not_named(tmp_path, written):
    """It is there, and would be found by its name: what the operator has not written is not read."""
    finished_job(tmp_path, "churn", "uid-1")
    context = make_context(tmp_path, "next", warmStartFrom=[{"name": "churn"}])
    context = replace(context, job=context.job.model_copy(update={"name": "next", "uid": "uid-2"}))
    study = open_job_study(context, make_limits())
    if written is not None:
        set_study_attr(study, StudyAttr.WARM_START, written)

    with pytest.raises(DataError, match=r"spec\.search\.warmStartFrom must name jobs .* got 'churn'") as caught:
        warm_entries(context, study, {})

    assert caught.value.reason == "InvalidSearch"


@pytest.mark.s3
@pytest.mark.parametrize("away", ["data", "output"])
def test_a_storage_that_stays_away_ends_the_pod_and_not_the_job(tmp_path, s3_server, s3_bucket, monkeypatch, away):
    """Exit code 1 with the reason on the last line, for the Job controller to try again; nothing of it in the study."""
    s3_server.client.put_object(
        Bucket=s3_bucket.removeprefix("s3://").rstrip("/"),
        Key="train.csv",
        Body=make_frame().to_csv(index=False).encode(),
    )
    there, gone = tmp_path / "there", tmp_path / "gone"
    s3_server.write_credentials(there)
    s3_server.write_credentials(gone, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    body = make_context(tmp_path).job.to_manifest()
    body["dataset"]["train"]["uri"], body["output"]["uri"] = s3_bucket + "train.csv", s3_bucket + "out"
    context = replace(make_context(tmp_path), job=PodJob.model_validate(body))
    study = open_job_study(context, make_limits())
    monkeypatch.setenv(Env.STORAGE_PATIENCE_SECONDS, "2")
    monkeypatch.setenv(Env.TRAIN_CREDENTIALS_DIR, str(gone if away == "data" else there))
    monkeypatch.setenv(Env.OUTPUT_CREDENTIALS_DIR, str(gone if away == "output" else there))

    done = run_worker(context, tmp_path)

    assert done.returncode == 1
    said = done.stderr.splitlines()
    assert said[-1].startswith(f"error: {s3_bucket}") and "cannot be reached at http://127.0.0.1:9" in said[-1]
    assert any(json.loads(line)["message"] == "object storage is away; trying again" for line in said[:-1])
    assert study_attr(study, StudyAttr.FAILURE) is None
    assert study.trials == []


@pytest.mark.s3
def test_wrong_keys_end_the_job(tmp_path, s3_server, s3_bucket, monkeypatch):
    """Waiting would not help, so nobody waits."""
    keys = s3_server.write_credentials(tmp_path / "keys", AWS_SECRET_ACCESS_KEY="wrong")
    body = make_context(tmp_path).job.to_manifest()
    body["dataset"]["train"]["uri"] = s3_bucket + "train.csv"
    context = replace(make_context(tmp_path), job=PodJob.model_validate(body))
    study = open_job_study(context, make_limits())
    monkeypatch.setenv(Env.TRAIN_CREDENTIALS_DIR, str(keys))

    assert run_worker(context, tmp_path).returncode == 1

    failure = study_attr(study, StudyAttr.FAILURE)
    assert (failure.stage, failure.reason) == ("data", "AccessDenied")


def test_a_second_worker_takes_over_where_the_first_one_stopped(tmp_path):
    """Stored folds and profile are used; numbers go on."""
    context = make_context(tmp_path, families={"include": ["Linear"]})
    study = open_job_study(context, make_limits(max_trials=1))
    assert run_worker(context, tmp_path).returncode == 0
    set_study_attr(study, StudyAttr.LIMITS, make_limits(max_trials=2))

    assert run_worker(make_context(tmp_path, "pod-2", families={"include": ["Linear"]}), tmp_path).returncode == 0

    summary = load_summary(open_study_storage(context.study_url), context.job.study_name)
    assert (summary.completed, summary.failed) == (2, 0)


def test_an_accelerator_is_one_that_torch_can_use(tmp_path, monkeypatch):
    """No device file: torch is not even asked; a file and a driver: yes; a file without a driver: no."""
    import torch

    assert not has_accelerator(tmp_path)
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert has_accelerator(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not has_accelerator(tmp_path)
