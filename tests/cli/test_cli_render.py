"""`kubeautoml validate` and `render`: the same rules and the same objects as in a cluster, without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from factories import NOON, make_data, make_finished_trial, make_limits, make_observed, make_result, make_summary
from kubeautoml.api.form import parse_job
from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.objects import Ref
from kubeautoml.cli.main import main
from kubeautoml.plan import plan
from kubeautoml.plan.base import Settings

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
SNAPSHOT = Path(__file__).parent / "snapshots" / "render-titanic.yaml"
STUDY_URL = "grpc://study:13000"


def rendered(file: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["render", "-f", str(file), "--study-url", STUDY_URL]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda f: f.name)
def test_every_example_is_valid(file: Path, capsys: pytest.CaptureFixture[str]):
    """Exit 0 and one line."""
    assert main(["validate", "-f", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: AutoMLJob {file.stem} is valid\n"


def test_each_example_has_the_script_that_writes_its_data():
    """examples/NAME.yaml reads s3://lake/NAME/train.csv, or the folder train/, which examples/NAME.py writes."""
    for file in EXAMPLES:
        job = yaml.safe_load(file.read_text())
        assert file.with_suffix(".py").exists()
        assert job["metadata"]["name"] == file.stem
        places = [f"s3://lake/{file.stem}/train{end}" for end in (".csv", "/")]
        assert job["spec"]["dataset"]["train"]["uri"] in places


def test_the_readme_shows_the_first_example():
    """The manifest on the first screen is the file that the demo runs."""
    assert (ROOT / "examples" / "titanic.yaml").read_text() in (ROOT / "README.md").read_text()


def test_render_is_stable(capsys: pytest.CaptureFixture[str]):
    """Byte by byte what tests/cli/snapshots holds; after a wished change: kubeautoml render > snapshot, and read the diff."""
    assert rendered(ROOT / "examples" / "titanic.yaml", capsys) == SNAPSHOT.read_text()


def test_render_prints_what_kubectl_can_read(capsys: pytest.CaptureFixture[str]):
    """YAML documents with apiVersion, kind and a name each, for a job from search to endpoint."""
    documents = list(yaml.safe_load_all(rendered(ROOT / "examples" / "titanic.yaml", capsys)))

    assert [d["kind"] for d in documents] == [
        *("NetworkPolicy", "Job", "Job", "AutoMLModel"),
        *("NetworkPolicy", "Deployment", "Service"),
    ]
    assert all(d["apiVersion"] and d["metadata"]["name"] for d in documents)


def test_render_holds_everything_that_the_planner_applies_over_a_life(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A job with an autoscaled endpoint, lived through pass by pass, applies no object that render leaves out."""
    manifest = yaml.safe_load((ROOT / "examples" / "titanic.yaml").read_text())
    manifest["metadata"] |= {"namespace": "team", "uid": "00000000-0000-0000-0000-000000000000"}
    manifest["spec"]["serving"] = {"autoscaling": {"maxReplicas": 4}}
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(manifest))

    shown = {Ref.of(d) for d in yaml.safe_load_all(rendered(file, capsys))}

    lived = live(parse_job(manifest))
    assert shown == lived
    assert {r.kind for r in lived} >= {"Job", "AutoMLModel", "Deployment", "Service", "HorizontalPodAutoscaler"}


def live(job: AutoMLJob) -> set[Ref]:
    """Every object applied in a job's life: search, stop, finalize, serve."""
    children: dict[Ref, dict[str, Any]] = {}
    stopped = {
        "data": make_data(),
        "best": [make_finished_trial()],
        "limits": make_limits(stop=True),
        "exhausted": True,
    }
    moments = [
        None,
        make_summary(limits=make_limits(), running=1),
        make_summary(**stopped),
        make_summary(**stopped, result=make_result()),
        make_summary(**stopped, result=make_result()),
    ]
    for study in moments:
        for ref, child in children.items():
            done = study is not None and study.exhausted and ref.kind == "Job"
            children[ref] = child | {"status": {"conditions": [{"type": "Complete", "status": "True"}] if done else []}}
        seen = make_observed(children=children.values(), study=study)
        todo = plan(job, seen, now=NOON, settings=Settings(study_url=STUDY_URL))
        children |= {Ref.of(m): m for m in todo.apply}
        job = job.model_copy(update={"status": todo.status})
    return set(children)


@pytest.mark.parametrize("verb", ["validate", "render"])
def test_a_bad_manifest_is_refused(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Exit 1, nothing on stdout, the field and the value on stderr."""
    manifest = yaml.safe_load((ROOT / "examples" / "titanic.yaml").read_text())
    manifest["spec"]["objective"]["metric"] = "Rmse"
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(manifest))

    assert main([verb, "-f", str(file)]) == 1

    printed = capsys.readouterr()
    assert printed.out == ""
    assert "spec.objective.metric must be a metric that fits TabularClassification" in printed.err
    assert printed.err.endswith("got 'Rmse'\n")
    assert printed.err.count("\n") == 1


def test_a_profile_in_the_same_file_sets_limits(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Its limits hold for the job as in a cluster, and a broken profile is one line."""
    job = (ROOT / "examples" / "titanic.yaml").read_text()
    profile = {"apiVersion": "kubeautoml.dev/v1alpha1", "kind": "AutoMLProfile", "metadata": {"name": "default"}}
    file = tmp_path / "job.yaml"

    file.write_text(f"{job}---\n{yaml.safe_dump({**profile, 'spec': {'limits': {'maxTrials': 10}}})}")
    assert main(["validate", "-f", str(file)]) == 1
    assert "spec.budget.maxTrials must be at most 10, got 500" in capsys.readouterr().err

    file.write_text(f"{job}---\n{yaml.safe_dump({**profile, 'spec': {'limits': {'maxTrails': 10}}})}")
    assert main(["validate", "-f", str(file)]) == 1
    assert capsys.readouterr().err.startswith(
        "error: AutoMLProfile default: spec.limits.maxTrails is not a field of AutoMLProfile; did you mean "
        "spec.limits.maxTrials?"
    )
