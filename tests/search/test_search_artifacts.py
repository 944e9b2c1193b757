"""What a trial leaves is read back as it was, and damage is said."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from kubeautoml.api.errors import BundleError, ObjectNotFound
from kubeautoml.storage import open_store
from kubeautoml_trainer.artifacts import (
    MODELS,
    OOF,
    RECORD,
    Predictions,
    TrialRecord,
    files_bytes,
    load_pipelines,
    pack_pipelines,
    read_predictions,
    read_record,
    write_trial,
)
from kubeautoml_trainer.data.prepare import prepare_frames
from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.models.base import FitContext
from kubeautoml_trainer.tasks import task_for
from search.fakes import FakePipeline, make_frame, make_pod_job

RECORD_7 = TrialRecord(
    7, 2, "Linear", {"C": 1.5, "scaling": "skew"}, 0.5, [0.4, 0.6], {"Rmse": 0.5}, 1.0, 0.1, 10, 2, [None, 3]
)
PREDICTIONS = Predictions(np.array([[0.5], [np.nan]], dtype=np.float32), np.array([[1.0]], dtype=np.float32))


@pytest.fixture
def paths(tmp_path):
    return make_pod_job(tmp_path).paths


@pytest.fixture
def store(tmp_path):
    return open_store(f"file://{tmp_path}/out")


def make_tar(*names: str, kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member, io.BytesIO())
    return buffer.getvalue()


def test_a_trial_is_read_back_as_it_was_stored(store, paths):
    """Record and predictions are equal, bit for bit."""
    write_trial(store, paths, RECORD_7, PREDICTIONS, b"")

    found = read_predictions(store, paths, 7)

    assert read_record(store, paths, 7) == RECORD_7
    np.testing.assert_array_equal(found.oof, PREDICTIONS.oof)
    np.testing.assert_array_equal(found.holdout, PREDICTIONS.holdout)
    assert found.oof.dtype == np.float32


def test_the_size_of_models_is_that_of_their_files(tmp_path):
    """An archive adds a kilobyte to each small file, and goes on to a multiple of ten: a limit on the model's size refused what keeps it."""
    job = make_pod_job(tmp_path)
    data = prepare_frames(make_frame(), None, job)[0]
    context = FitContext(task_for(job.task.type, data.schema), "Rmse", seed=0, threads=1, deadline=float("inf"))
    fitted = family_named("Linear").fit(data.train, data.holdout, data.schema, {}, context)
    for fold in ("0", "1"):
        fitted.save(tmp_path / "models" / fold)

    packed = pack_pipelines([fitted, fitted])

    on_disk = sum(p.stat().st_size for p in (tmp_path / "models").rglob("*") if p.is_file())
    assert files_bytes(packed) == on_disk < len(packed)


def test_fitted_pipelines_predict_the_same_after_storing(tmp_path, store, paths):
    """One a fold, in the order of the folds."""
    job = make_pod_job(tmp_path)
    data = prepare_frames(make_frame(), None, job)[0]
    context = FitContext(task_for(job.task.type, data.schema), "Rmse", seed=0, threads=1, deadline=float("inf"))
    fitted = [
        family_named(name).fit(data.train, data.holdout, data.schema, {}, context) for name in ("Dummy", "Linear")
    ]
    write_trial(store, paths, RECORD_7, PREDICTIONS, pack_pipelines(fitted))

    loaded = load_pipelines(store, paths, 7, tmp_path / "scratch")

    assert [p.family for p in loaded] == ["Dummy", "Linear"]
    for before, after in zip(fitted, loaded, strict=True):
        np.testing.assert_array_equal(before.predict(data.holdout.frame), after.predict(data.holdout.frame))


def test_a_trial_that_was_not_written_to_the_end_does_not_exist(store, paths, monkeypatch):
    """The record comes last: whoever dies before it leaves nothing that looks whole."""
    written = []
    monkeypatch.setattr(type(store), "write", lambda self, uri, data: written.append(uri))

    write_trial(store, paths, RECORD_7, PREDICTIONS, b"")

    assert written[-1] == paths.trial(7, RECORD)
    with pytest.raises(ObjectNotFound):
        read_record(store, paths, 7)


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"number": 1}', b'{"colour": 1}'])
def test_a_damaged_record_is_refused(store, paths, text):
    """The message names the object."""
    store.write(paths.trial(7, RECORD), text)

    with pytest.raises(BundleError, match=r"trial\.json"):
        read_record(store, paths, 7)


def test_arrays_are_read_without_pickle_and_only_as_float32_matrices(store, paths):
    """An array of objects would need pickle; a vector or doubles are not ours."""
    write_trial(store, paths, RECORD_7, PREDICTIONS, b"")
    for array in (np.array([{}], dtype=object), np.zeros(3, dtype=np.float32), np.zeros((3, 1))):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        store.write(paths.trial(7, OOF), buffer.getvalue())

        with pytest.raises(BundleError, match=r"oof\.npy"):
            read_predictions(store, paths, 7)


@pytest.mark.parametrize(
    "data",
    [
        make_tar("../evil"),
        make_tar("/etc/evil"),
        make_tar("0/../../evil"),
        make_tar("0/model", kind=tarfile.SYMTYPE),
        make_tar("0/model", kind=tarfile.LNKTYPE),
        make_tar("models/model"),
        make_tar("1/model"),
        make_tar(),
        b"no tar",
    ],
)
def test_an_archive_with_foreign_members_is_refused_whole(tmp_path, store, paths, data):
    """Nothing is written outside the scratch folder, nor inside it."""
    write_trial(store, paths, replace(RECORD_7), PREDICTIONS, data)

    with pytest.raises(BundleError, match=MODELS):
        load_pipelines(store, paths, 7, tmp_path / "scratch" / "deep")

    assert not list(tmp_path.rglob("evil"))


def test_packed_pipelines_hold_nothing_but_their_files():
    """No owner, no absolute path."""
    with tarfile.open(fileobj=io.BytesIO(pack_pipelines([FakePipeline(1.0, 1), FakePipeline(2.0, 1)]))) as tar:
        assert sorted(tar.getnames()) == [".", "./0", "./0/model.json", "./1", "./1/model.json"]
