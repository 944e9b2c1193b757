"""Bad input: one clear line with place, rule, value and what to do; exit code 1; no traceback; nothing lost."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.bad_files import BAD_FILES, USABLE, Bad, lines, merged
from cli.runs import COMMAND, Ended, Place, end_of, make_rows
from factories import NOON, SETTINGS, env_of, make_job, make_observed, make_summary
from kubeautoml.api.conditions import Reason, find_condition
from kubeautoml.api.errors import KubeAutoMLError
from kubeautoml.api.form import parse_job
from kubeautoml.api.names import Env
from kubeautoml.api.pod import PodContext, PodJob
from kubeautoml.api.trials import Failure, StudyAttr, StudyLimits
from kubeautoml.cli.main import main
from kubeautoml.plan import plan
from kubeautoml_trainer.data.prepare import prepare
from real.s3 import S3Server


def make_context(folder: Path, *, uri: str = "", output: str = "", **spec: Any) -> PodContext:
    """A worker's view of a job whose data and results lie in a folder."""
    least = {
        "task": {"type": "TabularClassification", "target": "bought"},
        "dataset": {"train": {"uri": uri or f"file://{folder}/shop.csv"}},
        "output": {"uri": output or f"file://{folder}/models"},
    }
    metadata = {"name": "shop", "namespace": "default", "uid": "u1"}
    job = parse_job({"metadata": metadata, "spec": merged(least, spec)})
    return PodContext(PodJob.of(job), f"journal://{folder}/study.journal", "pod", "pod-uid", folder / "scratch", 1)


@pytest.mark.parametrize("bad", BAD_FILES, ids=lambda b: b.name)
def test_bad_data_is_said_in_one_line_with_its_reason(bad: Bad, tmp_path: Path):
    """Each bad file ends in a DataError whose message names place, rule and value, and leaves no artifact behind."""
    uri = f"file://{tmp_path}/{bad.file}"
    if bad.data is not None:
        (tmp_path / bad.file).write_bytes(bad.data if isinstance(bad.data, bytes) else bad.data.encode())

    with pytest.raises(KubeAutoMLError) as caught:
        prepare(make_context(tmp_path, uri=uri, **bad.spec))

    message = str(caught.value)
    assert caught.value.reason == bad.reason
    assert [w for w in bad.said if w.format(uri=uri) not in message] == [], message
    assert "\n" not in message
    assert len(message) < 400
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", USABLE)
def test_odd_data_is_used_all_the_same(name: str, tmp_path: Path):
    """Infinite values, words among numbers, dates and missing values are features like others."""
    text, age, city = USABLE[name]
    (tmp_path / "shop.csv").write_text(text)

    data = prepare(make_context(tmp_path))

    assert [c.type.value for c in data.schema.columns] == [age, city]


def test_a_pod_s_failure_becomes_the_job_s_condition():
    """Reason and message reach DataReady and Succeeded word for word."""
    failure = Failure("data", Reason.TARGET_NOT_FOUND, "spec.task.target: column 'bought' is not in the data")
    seen = make_observed(study=make_summary(failure=failure))

    status = plan(make_job(), seen, now=NOON, settings=SETTINGS).status

    for kind in ("DataReady", "Succeeded"):
        condition = find_condition(status.conditions, kind)
        assert condition is not None
        assert (condition.status, condition.reason, condition.message) == ("False", failure.reason, failure.message)


# A worker of its own


def run_worker(context: PodContext, credentials: Path | None = None) -> tuple[Ended, Failure]:
    """`kubeautoml worker` against a journal study with limits; what it left in the study."""
    from kubeautoml.study import create_study, open_study_storage, set_study_attr, study_attr

    study = create_study(open_study_storage(context.study_url), context.job.study_name, context.job.direction)
    set_study_attr(study, StudyAttr.LIMITS, StudyLimits(max_trials=2, max_failed_trials=2))
    variables = env_of(context)
    if credentials is not None:
        variables |= dict.fromkeys((Env.TRAIN_CREDENTIALS_DIR, Env.OUTPUT_CREDENTIALS_DIR), str(credentials))
    process = subprocess.Popen(
        [*COMMAND, "worker"],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    ended = end_of(process)
    failure = study_attr(study, StudyAttr.FAILURE)
    assert isinstance(failure, Failure), ended.err
    return ended, failure


def test_a_worker_that_cannot_write_its_results_says_so_before_it_reads_the_data(tmp_path: Path):
    """The output location is a file: exit 1, the study says OutputNotWritable, and the missing data is not reached."""
    (tmp_path / "models").write_text("in the way")

    ended, failure = run_worker(make_context(tmp_path))

    assert ended.code == 1
    assert (failure.stage, failure.reason) == ("output", Reason.OUTPUT_NOT_WRITABLE)
    assert ended.last_line == f"error: {failure.message}"
    assert failure.message == (
        f"spec.output.uri: output cannot be written: file://{tmp_path}/models must be a folder, it is a file; "
        "move it away, or choose another path"
    )
    assert "Traceback" not in ended.err


@pytest.mark.s3
def test_a_worker_told_wrong_keys_says_access_denied(s3_server: S3Server, s3_bucket: str, tmp_path: Path):
    """Wrong credentials end in AccessDenied with location and advice; the key itself is never printed."""
    keys = s3_server.write_credentials(tmp_path / "keys", AWS_SECRET_ACCESS_KEY="wrong-secret")
    context = make_context(tmp_path, uri=f"{s3_bucket}shop.csv", output=f"file://{tmp_path}/models")

    ended, failure = run_worker(context, keys)

    assert ended.code == 1
    assert (failure.stage, failure.reason) == ("data", Reason.ACCESS_DENIED)
    assert failure.message.startswith(f"{s3_bucket}shop.csv: access denied by {s3_server.endpoint_url}")
    assert "check the keys in the secret" in failure.message
    assert "wrong-secret" not in ended.err + failure.message


@pytest.mark.s3
def test_a_missing_bucket_is_named_for_data_and_for_results(s3_server: S3Server, tmp_path: Path):
    """Bucket and endpoint stand in the message, whichever of the two locations is wrong."""
    keys = s3_server.write_credentials(tmp_path / "keys")
    (tmp_path / "shop.csv").write_text(lines())

    _, data = run_worker(make_context(tmp_path, uri="s3://no-such-bucket/shop.csv"), keys)
    _, output = run_worker(make_context(tmp_path, output="s3://no-such-bucket/models", search={"seed": 1}), keys)

    where = f"bucket no-such-bucket does not exist at {s3_server.endpoint_url}; create it or correct the URI"
    assert (data.reason, data.message) == (
        Reason.DATASET_NOT_FOUND,
        f"s3://no-such-bucket/shop.csv: {where}",
    )
    assert output.reason == Reason.OUTPUT_NOT_WRITABLE
    assert where in output.message


# The manifest


@pytest.mark.parametrize("verb", ["validate", "run"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"objective": {"metrc": "RocAuc"}},
            "spec.objective.metrc is not a field of AutoMLJob; did you mean spec.objective.metric?",
        ),
        ({"objective": {"metric": "RocAux"}}, "spec.objective.metric must be a metric that fits TabularClassification"),
        ({"objective": {"metric": "Rmse"}}, "got 'Rmse'"),
        ({"budget": {"maxTrials": 0}}, "spec.budget.maxTrials must be at least 1, got 0"),
        (
            {"budget": {"maxDurationSeconds": 3}},
            "spec.budget.maxDurationSeconds must be at least 10, or no trial can be run",
        ),
        (
            {"output": {"uri": "models"}},
            "spec.output.uri must be a URI such as s3://bucket/key or file:///path, got 'models'",
        ),
        ({"task": None}, "spec.task"),
        ({"search": "fast"}, "spec.search must be an object, got 'fast'"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, dict) else "",
)
def test_a_bad_manifest_is_refused_alike_by_validate_and_run(
    verb: str, change: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Exit 1 and one line that begins with the file and the field; `run` begins nothing."""
    place = Place(tmp_path)
    place.write(**change)
    flags = ["--workdir", str(place.workdir)] if verb == "run" else []

    assert main([verb, "-f", str(place.manifest), *flags]) == 1

    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"{place.manifest}: spec.")
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert not place.workdir.exists()


@pytest.mark.parametrize(
    ("spec", "message"),
    [(None, "spec is required; add it to the manifest"), ([1], "spec must be an object, got a list")],
)
def test_a_manifest_without_a_proper_spec_is_one_line_too(
    spec: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """`run` with all its flags does not stumble over what is not there."""
    manifest = {"apiVersion": "kubeautoml.dev/v1alpha1", "kind": "AutoMLJob", "metadata": {"name": "x"}}
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(manifest if spec is None else {**manifest, "spec": spec}))

    assert main(["run", "-f", str(file), "--serve", "--buckets", str(tmp_path), "--workdir", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"{file}: {message}\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--buckets", "nowhere"], "error: --buckets nowhere must be a folder that holds one folder a bucket\n"),
        (["--workdir", "/proc/nowhere"], "error: --workdir: /proc/nowhere"),
    ],
)
def test_flags_that_do_not_fit_are_misuse(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Exit 2 and one line that names the flag."""
    place = Place(tmp_path)
    place.write()

    assert main(["run", "-f", str(place.manifest), *flags]) == 2
    assert capsys.readouterr().err.startswith(said)


# The whole command


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (
            lambda p: p.data.unlink(),
            "error: DatasetNotFound: no file matches file://{data}; check bucket, path and spelling",
        ),
        (
            lambda p: p.write(make_rows().rename(columns={"bought": "bougth"})),
            "error: TargetNotFound: spec.task.target: column 'bought' is not in the data; "
            "did you mean 'bougth'? columns: age, income, city, bougth",
        ),
        (
            lambda p: (p.folder / "buckets" / "models").write_text("a file"),
            "error: OutputNotWritable: spec.output.uri: output cannot be written: file://{folder}/buckets/models must be a folder",
        ),
    ],
    ids=["missing file", "target absent", "output not writable"],
)
def test_a_run_that_cannot_be_says_why_within_seconds(break_it: Any, said: str, tmp_path: Path):
    """Exit 1; the last line of stderr is the reason; nothing is on stdout; no process and no traceback is left."""
    place = Place(tmp_path)
    place.write(budget={"maxTrials": 3})  # no time that could be over before the worker is up on a busy machine
    break_it(place)

    ended = place.run()

    assert ended.code == 1
    assert ended.out == ""
    assert ended.last_line.startswith(said.format(data=place.data, folder=place.folder)), ended.err
    assert "Traceback" not in ended.err
    assert ended.seconds < 120, "about 3 s on an idle machine, and it waits for nothing"


def test_a_failed_run_prints_the_object_too_and_can_be_mended(tmp_path: Path):
    """`-o json` of a failed job has its conditions; when the file is there, the same command succeeds."""
    place = Place(tmp_path)
    place.write(budget={"maxTrials": 1}, search={"families": {"include": ["Linear"]}})
    place.data.unlink()

    failed = place.run("-o", "json")
    make_rows().to_csv(place.data, index=False)
    mended = place.run("-o", "json")

    reasons = {c["type"]: c["reason"] for c in failed.job["status"]["conditions"]}
    assert failed.code == 1
    assert (reasons["DataReady"], reasons["Succeeded"]) == ("DatasetNotFound", "DatasetNotFound")
    assert mended.code == 0, mended.err
    assert mended.job["status"]["trials"]["completed"] == 1


# Predictions


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--output", "out.csv"], 1, "error: nowhere holds no bundle.json, so it is no model; check the path\n"),
        (["--output", "out.xlsx"], 2, "error: --output must end in .csv, "),
    ],
    ids=["no model", "no format"],
)
def test_predict_says_what_it_cannot_use(
    flags: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A model that is not there, or an output format that nobody writes."""
    rows = tmp_path / "rows.csv"
    rows.write_text(lines())

    assert main(["predict", "--model", "nowhere", "--input", str(rows), *flags]) == code

    error = capsys.readouterr().err
    assert error.startswith(said)
    assert error.count("\n") == 1
