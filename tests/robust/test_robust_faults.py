"""What nobody foresaw ends in one line, too: in the study when another pod would meet the same, else on stderr alone."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kubeautoml.api.pod import PodContext
from kubeautoml.api.trials import StudyAttr, StudyLimits
from kubeautoml.study import set_study_attr, study_attr
from kubeautoml_trainer import finalize, worker
from kubeautoml_trainer.data import prepare
from kubeautoml_trainer.search.signals import TerminationGuard
from robust.robust_factories import make_env

FULL = OSError(errno.ENOSPC, "No space left on device")


def make_context(folder: Path) -> PodContext:
    return PodContext.from_env(make_env(folder, "target", True, "train.csv"))


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PodContext:
    """A worker's view of a job with limits, on whose study nothing was done; no signals are taken over."""
    monkeypatch.setattr(TerminationGuard, "install", lambda self: None)
    made = make_context(tmp_path)
    set_study_attr(worker.open_study(made), StudyAttr.LIMITS, StudyLimits(10, 10))
    return made


def fail_with(error: BaseException):
    def act(*args: object, **more: object) -> None:
        raise error

    return act


RETRIED = {
    "a full disk": (FULL, "the pod's disk is full"),
    "no memory": (
        MemoryError("Unable to allocate 8 GiB"),
        "the pod has too little memory for this step (Unable to allocate 8 GiB)",
    ),
    "a broken mount": (
        OSError(errno.EIO, "Input/output error"),
        "OSError: [Errno 5] Input/output error; a new pod will try again",
    ),
}


@pytest.mark.parametrize("fault", RETRIED)
def test_a_pod_that_lacks_something_says_so_and_leaves_the_job_to_the_next(
    fault: str, context: PodContext, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the data is read: exit code 1, one line, and no word in the study, since a new pod may have what this one lacks."""
    error, words = RETRIED[fault]
    monkeypatch.setattr(prepare, "read_dataset", fail_with(error))

    code = worker._run(context)

    said = capsys.readouterr().err.splitlines()[-1]
    assert code == 1 and said.startswith(f"error: {words}")
    assert study_attr(worker.open_study(context), StudyAttr.FAILURE) is None


def test_a_defect_while_the_data_is_prepared_ends_the_job_in_one_sentence(
    context: PodContext, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every other pod would come to the same end."""
    monkeypatch.setattr(prepare, "read_dataset", fail_with(ZeroDivisionError("division\nby zero")))

    code = worker._run(context)

    failure = study_attr(worker.open_study(context), StudyAttr.FAILURE)
    words = "unexpected ZeroDivisionError: division by zero; this is a defect of kubeautoml: report it with the log of pod hard-worker-1"
    assert code == 1 and (failure.stage, failure.reason, failure.message) == ("data", "InternalError", words)
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {words}"


@pytest.mark.parametrize(
    ("error", "is_final"), [(FULL, False), (ZeroDivisionError("of zero"), True)], ids=["disk", "defect"]
)
def test_a_finalizer_that_meets_a_fault_says_one_line(
    error: Exception,
    is_final: bool,
    context: PodContext,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As the worker does."""
    monkeypatch.setattr(finalize, "finalize", fail_with(error))
    monkeypatch.setattr(finalize, "log_to_stderr", lambda: None)
    monkeypatch.setattr(finalize.signal, "signal", lambda *args: None)
    monkeypatch.setattr(finalize.PodContext, "from_env", lambda env: context)

    code = finalize.main([])

    failure = study_attr(worker.open_study(context), StudyAttr.FAILURE)
    assert code == 1 and (failure is not None) is is_final
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith("error: unexpected ZeroDivisionError: of zero" if is_final else "error: the pod's disk is full")
    )
