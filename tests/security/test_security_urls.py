"""Credentials in URLs: refused wherever somebody may write one, by messages that do not repeat them."""

from __future__ import annotations

from typing import Any

import pytest

from factories import make_manifest
from kubeautoml.api.errors import UsageError
from kubeautoml.api.form import problems
from kubeautoml.api.profile import AutoMLProfile
from kubeautoml.api.secrets import holds_credentials, masked
from kubeautoml.controller.settings import OperatorSettings

SECRET = "pLaNtEd/SeCrEt+1"
URIS = (
    f"s3://key:{SECRET}@lake/a.csv",
    f"s3://key:with@{SECRET}@lake/a.csv",
    f"s3://{SECRET.replace('/', '')}@lake/a.csv",
    f"s3://lake/a.csv?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature={SECRET}",
    f"s3://lake/a.csv?part=1&X-Amz-Security-Token={SECRET}",
    f"s3://lake/a.csv?AWSAccessKeyId=k&Signature={SECRET}",
    f"file://user:{SECRET}@host/a.csv",
    # not of the form of a location at all, which is another rule with another message
    f"https://user:{SECRET}@host/a.csv",
    f"https://lake.s3.amazonaws.com/a.csv?X-Amz-Signature={SECRET}",
    f"S3://key:{SECRET}@lake/a.csv",
)


@pytest.mark.parametrize("uri", URIS)
@pytest.mark.parametrize("field", ["train", "test", "output"])
def test_a_job_whose_uri_holds_credentials_is_refused_without_repeating_them(field: str, uri: str) -> None:
    """The message names the field and where credentials belong."""
    train = {"uri": "s3://lake/a.csv"}
    changed: dict[str, Any] = {
        "train": {"dataset": {"train": {"uri": uri}}},
        "test": {"dataset": {"train": train, "test": {"uri": uri}}},
        "output": {"output": {"uri": uri}},
    }[field]

    [found] = problems(make_manifest(**changed))

    path = "spec.output.uri" if field == "output" else f"spec.dataset.{field}.uri"
    assert found.message.startswith(f"{path} must ")
    assert SECRET not in found.message
    if uri.startswith(("s3", "file")) and SECRET in uri:
        assert "secretRef" in found.message


@pytest.mark.parametrize("uri", ["s3://lake/a@b.csv", "s3://lake/x-?.csv", "s3://lake/a:b.csv", "file:///a?token/b"])
def test_what_only_looks_like_it_is_taken(uri: str) -> None:
    """Keys may hold signs that mean something in other places."""
    assert problems(make_manifest(dataset={"train": {"uri": uri}})) == []


PROFILES: dict[str, dict[str, Any]] = {
    "spec.study.url": {"study": {"url": f"postgresql://studies:{SECRET}@db/studies"}},
    "spec.study.url ": {"study": {"url": f"postgresql://db/studies?password={SECRET}&sslmode=require"}},
    "spec.study.url  ": {"study": {"url": f"grpcs://user:{SECRET}@study:13000"}},
    "spec.objectStorage.endpointUrl": {"objectStorage": {"endpointUrl": f"https://key:{SECRET}@s3.example"}},
    "spec.locations.dataPrefixes[0]": {"locations": {"dataPrefixes": [f"s3://key:{SECRET}@lake/"]}},
}


@pytest.mark.parametrize("path", PROFILES)
def test_a_profile_that_holds_a_password_is_refused_without_repeating_it(path: str) -> None:
    """It would stand in the pods of every job."""
    manifest = {
        "apiVersion": "kubeautoml.dev/v1alpha1",
        "kind": "AutoMLProfile",
        "metadata": {"name": "default"},
        "spec": PROFILES[path],
    }

    [found] = problems(manifest, AutoMLProfile)

    assert found.path == path.strip()
    assert SECRET not in found.message
    assert "Secret" in found.message


def test_a_study_url_may_name_a_user() -> None:
    """As one that finds its password in a file of its own."""
    assert not holds_credentials("postgresql://studies@db/studies", may_name_user=True)
    assert not holds_credentials("grpcs://study:13000")


def test_an_operator_does_not_start_with_a_password_that_pods_would_show() -> None:
    """The message says where the URL belongs, and does not repeat it."""
    url = f"postgresql://studies:{SECRET}@db/studies"

    with pytest.raises(UsageError, match="KUBEAUTOML_OPERATOR_STUDY_URL") as caught:
        OperatorSettings.from_env({"KUBEAUTOML_STUDY_URL": url})

    assert SECRET not in str(caught.value)
    own = OperatorSettings.from_env(
        {"KUBEAUTOML_STUDY_URL": "postgresql://db/studies", "KUBEAUTOML_OPERATOR_STUDY_URL": url}
    )
    assert own.study_url_for(None) == url


def test_what_is_masked_stays_readable() -> None:
    assert masked(f"postgresql://studies:{SECRET}@db/studies") == "postgresql://***@db/studies"
    assert masked("s3://lake/a.csv") == "s3://lake/a.csv"
