"""The worker as a process: the environment in, trials and exit codes out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kubeautoml.api.names import Env
from kubeautoml.api.pod import PodContext
from kubeautoml.api.trials import StudyAttr
from kubeautoml.storage import open_store
from kubeautoml.study import load_summary, open_study_storage, set_study_attr, study_attr
from kubeautoml_trainer.artifacts import load_pipelines
from kubeautoml_trainer.search.warm_start import warm_entries
from search.fakes import FakeFamily, make_context, make_frame, make_limits, make_loop, open_job_study


def run_worker(context: PodContext, folder: Path) -> subprocess.CompletedProcess[str]:
    """`kubeautoml worker` for a pod, on the data of `make_frame` unless there is other data already."""
    data = folder / "train.csv"
    if not data.exists():
        make_frame().to_csv(data, index=False)
    env = {
        **os.environ,
        Env.JOB: context.job.model_dump_json(by_alias=True),
        Env.STUDY_URL: context.study_url,
        Env.POD_NAME: context.pod_name,
        Env.POD_UID: context.pod_uid,
        Env.SCRATCH_DIR: str(context.scratch_dir),
        Env.THREADS: "1",
    }
    command = [sys.executable, "-m", "kubeautoml.cli.main", "worker"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def test_a_worker_reads_the_data_runs_trials_and_leaves_with_0(tmp_path):
    """The data's facts are in the study, a line a trial on stderr, and the stored models can be loaded."""
    context = make_context(tmp_path, families={"include": ["Dummy", "Linear"]})
    study = open_job_study(context, make_limits(max_trials=3))

    done = run_worker(context, tmp_path)

    assert done.returncode == 0, done.stderr
    facts = study_attr(study, StudyAttr.DATA)
    assert (facts.rows, facts.columns, facts.holdout_rows, facts.folds, facts.classes) == (48, 1, 12, 3, None)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    trials = [line for line in lines if line["message"] == "trial completed"]
    assert [(t["trial"], t["family"]) for t in trials[:2]] == [(0, "Dummy"), (1, "Linear")]
    assert {"value", "seconds"} <= trials[0].keys()
    pipelines = load_pipelines(open_store(context.job.output.uri), context.job.paths, 1, tmp_path / "scratch")
    assert [p.family for p in pipelines] == ["Linear"] * 3


@pytest.mark.parametrize(
    ("search", "data", "stage", "reason"),
    [
        ({"families": {"include": ["Liner"]}}, None, "search", "InvalidSearch"),
        ({"warmStartFrom": [{"name": "gone"}]}, None, "search", "InvalidSearch"),
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


def test_warm_start_takes_the_whole_pipelines_of_the_latest_job_of_that_name(tmp_path):
    """Best first, and with the parameters outside the search space, from the record."""
    earlier = make_context(tmp_path, pruner={"type": "None"})
    study = open_job_study(earlier, make_limits(max_trials=6))
    make_loop(earlier, (FakeFamily(),), study).run()
    context = make_context(tmp_path, warmStartFrom=[{"name": "churn"}])
    job = context.job.model_copy(update={"name": "next", "uid": "uid-2"})
    context = PodContext(job, context.study_url, "pod", "pod-uid", tmp_path, 1)

    found = warm_entries(context)

    best = sorted(study.trials, key=lambda t: t.value)
    assert [e.parameters["rate"] for e in found] == [t.params["Fake.rate"] for t in best[:5]]
    assert {"rate": 0.5, "size": 3, "hidden": 7} in [e.parameters for e in found]


def test_a_second_worker_takes_over_where_the_first_one_stopped(tmp_path):
    """Stored folds and profile are used; numbers go on."""
    context = make_context(tmp_path, families={"include": ["Linear"]})
    study = open_job_study(context, make_limits(max_trials=1))
    assert run_worker(context, tmp_path).returncode == 0
    set_study_attr(study, StudyAttr.LIMITS, make_limits(max_trials=2))

    assert run_worker(make_context(tmp_path, "pod-2", families={"include": ["Linear"]}), tmp_path).returncode == 0

    summary = load_summary(open_study_storage(context.study_url), context.job.study_name)
    assert (summary.completed, summary.failed) == (2, 0)
