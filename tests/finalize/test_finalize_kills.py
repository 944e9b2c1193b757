"""A finalizer that is killed at any moment, and its successors: the same model, told once, and never half of it to a reader."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from finalize.finalize_factories import ENTRIES, Searched, make_searched, soon
from kubeautoml.api.errors import BundleError
from kubeautoml.api.names import Env
from kubeautoml.api.trials import JobResult, StudyAttr
from kubeautoml.study import read_limits, set_study_attr, study_attr
from kubeautoml_trainer import finalize as finalizer
from kubeautoml_trainer.bundle import load_bundle

SEED = 20_261_125

KILLED = """
    import os, random, signal, sys, threading
    from kubeautoml.storage.file import FileStore
    import kubeautoml.study as study
    from kubeautoml_trainer.finalize import main

    at, lock, acts = int(sys.argv[1]), threading.Lock(), []

    def die(when):
        if len(acts) == at and when == sys.argv[2]:
            os.kill(os.getpid(), int(sys.argv[3]))

    def deadly(act, name):
        def wrapped(*args):
            with lock:
                acts.append(name)
                die("before")
                answer = act(*args)
                die("after")
            return answer
        return wrapped

    for name in ("write", "upload", "delete"):
        setattr(FileStore, name, deadly(getattr(FileStore, name), name))
    study.set_study_attr = deadly(study.set_study_attr, "told")
    code = main([])
    print(len(acts))
    sys.exit(code)
"""


def run_finalizer(
    searched: Searched, at: int, when: str, by: signal.Signals = signal.SIGKILL
) -> subprocess.CompletedProcess[str]:
    """The command, killed before or after its act number `at`: whatever it writes, deletes or tells."""
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(at), when, str(int(by))]
    return subprocess.run(command, env={**os.environ, **searched.env}, capture_output=True, text=True, timeout=300)


def reader_finds(searched: Searched) -> str | None:
    """The digest of the model that a reader gets now, checked file by file; None when it is told that there is none."""
    try:
        return load_bundle(searched.paths.model).sha256
    except BundleError as error:
        assert "holds no bundle.json" in str(error)
        return None


def untimed(result: JobResult) -> JobResult:
    """Without what a clock said."""
    variants = tuple(replace(v, latency_p50_ms=None) for v in result.variants)
    return replace(result, finished_at=0.0, variants=variants)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory):
    """A search that has ended, the result that an undisturbed finalizer gives, and how often that one acts."""
    searched = make_searched(tmp_path_factory.mktemp("jobs") / "killed", entries=ENTRIES[1:4], job_deadline=soon(0))
    limits = read_limits(searched.study)
    assert limits is not None
    done = run_finalizer(searched, 0, "never")
    assert done.returncode == 0, done.stderr
    result = study_attr(searched.study, StudyAttr.RESULT)
    set_study_attr(searched.study, StudyAttr.LIMITS, replace(limits, keep_trial_artifacts=1))
    return searched, result, int(done.stdout)


def test_a_finalizer_killed_again_and_again_makes_the_one_model(job):
    """At seeded moments, the first in the middle of the bundle; whoever reads meanwhile finds all of the model or none."""
    searched, expected, acts = job
    seeded = random.Random(SEED)
    searched.store.delete(searched.paths.model + "/")
    set_study_attr(searched.study, StudyAttr.RESULT, None)
    moments = [(acts // 2, "after"), *((seeded.randint(1, acts), seeded.choice(["before", "after"])) for _ in range(3))]

    for at, when in moments:
        done = run_finalizer(searched, at, when)

        assert done.returncode in (0, -signal.SIGKILL), (SEED, at, when, done.stderr)
        assert reader_finds(searched) in (None, expected.sha256), (SEED, at, when)
        if study_attr(searched.study, StudyAttr.RESULT) is not None:
            assert reader_finds(searched) == expected.sha256, (SEED, at, when)
    assert run_finalizer(searched, 0, "never").returncode == 0

    result = study_attr(searched.study, StudyAttr.RESULT)
    assert untimed(result) == untimed(expected)
    assert reader_finds(searched) == expected.sha256
    assert (
        len({o.uri.split("/trials/")[1].split("/")[0] for o in searched.store.find(searched.paths.root + "/trials/")})
        == 1
    )


def test_a_finalizer_that_is_told_to_leave_does_so_at_once(job):
    """With the exit code that the Job's podFailurePolicy ignores; also as process 1, which hears only what it handles."""
    searched, _, _ = job
    set_study_attr(searched.study, StudyAttr.RESULT, None)

    assert run_finalizer(searched, 3, "before", signal.SIGTERM).returncode == 143

    assert study_attr(searched.study, StudyAttr.RESULT) is None


def test_a_finalizer_that_comes_second_does_not_touch_the_told_model(job, tmp_path: Path):
    """Two at once, as when a node is lost and comes back: the slower one finds the result, and writes nothing over it."""
    searched, expected, _ = job
    set_study_attr(searched.study, StudyAttr.RESULT, expected)
    before = {o.uri: o.version for o in searched.store.find(searched.paths.model + "/", hidden=True)}

    found = finalizer.finalize(searched.context, searched.study)

    assert found == expected
    assert {o.uri: o.version for o in searched.store.find(searched.paths.model + "/", hidden=True)} == before


@pytest.mark.s3
def test_a_finalizer_without_storage_leaves_the_job_alone(tmp_path: Path, s3_server, s3_bucket, monkeypatch, capsys):
    """Exit code 1 for the Job controller to try again, and no failure in the study."""
    searched = make_searched(tmp_path, entries=ENTRIES[1:2])
    keys = s3_server.write_credentials(tmp_path / "gone", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    job = searched.context.job
    body = {**job.to_manifest(), "output": {"uri": s3_bucket + "out"}}
    for name, value in searched.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(Env.JOB, type(job).model_validate(body).model_dump_json(by_alias=True))
    monkeypatch.setenv(Env.OUTPUT_CREDENTIALS_DIR, str(keys))
    monkeypatch.setenv(Env.STORAGE_PATIENCE_SECONDS, "1")
    monkeypatch.setattr(finalizer, "log_to_stderr", lambda: None)

    assert finalizer.main([]) == 1

    assert "cannot be reached at http://127.0.0.1:9" in capsys.readouterr().err.splitlines()[-1]
    assert study_attr(searched.study, StudyAttr.FAILURE) is None
