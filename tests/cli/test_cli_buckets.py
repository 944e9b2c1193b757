"""A folder in place of object storage, and what a profile says of it."""

from __future__ import annotations

from pathlib import Path

from factories import make_manifest
from kubeautoml.api.check import check_job
from kubeautoml.api.form import parse_job, parse_profile
from kubeautoml.cli.buckets import in_folders, on_this_machine


def test_locations_of_a_profile_mean_the_cluster_s_storage(tmp_path: Path) -> None:
    """The same file with job and profile runs on a cluster and, with folders for buckets, on a laptop."""
    locations = {"dataPrefixes": ["s3://lake/"], "outputPrefixes": ["s3://models/"]}
    profile = {"kind": "AutoMLProfile", "metadata": {"name": "default"}, "spec": {"locations": locations}}
    there = make_manifest()
    here = in_folders(there, tmp_path)

    assert list(check_job(parse_job(there), parse_profile(profile))) == []
    assert list(check_job(parse_job(here), parse_profile(profile))) != []
    assert list(check_job(parse_job(here), parse_profile(on_this_machine(profile)))) == []
    assert list(check_job(parse_job(there), parse_profile(on_this_machine(profile)))) == []


def test_other_documents_and_other_limits_stay() -> None:
    """Nor is a profile mended that is none."""
    job = make_manifest()
    profile = {"kind": "AutoMLProfile", "metadata": {"name": "default"}, "spec": {"limits": {"maxTrials": 3}}}

    assert on_this_machine(job) is job
    assert on_this_machine(profile)["spec"]["limits"] == {"maxTrials": 3}
    assert on_this_machine({"kind": "AutoMLProfile", "spec": 3}) == {"kind": "AutoMLProfile", "spec": 3}
