"""`kubectl automl report`: from a folder, from a real object storage, into a file or a browser; and without credentials."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from cli.clusters import JOBS, Cluster, conditions, finished, searching
from kubeautoml.storage import open_store
from real.s3 import S3Server

pytestmark = pytest.mark.controlplane

PAGE = "<h1>churn</h1>"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a storage, nor a browser, nor a home of whoever runs the tests."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE",
                 "BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):  # fmt: skip
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    (tmp_path / "report.html").write_text(PAGE)
    return tmp_path


def test_it_is_written_where_it_is_wanted(cluster: Cluster, stored: Path, monkeypatch: pytest.MonkeyPatch):
    """Into a file, beside the caller, or to a pipe; nothing is opened."""
    cluster.create("churn", finished(stored))
    monkeypatch.chdir(stored)
    monkeypatch.setenv("BROWSER", "false")

    assert cluster.out("report", "churn", "-o", "here.html") == f"here.html written from file://{stored}/report.html\n"
    assert (stored / "here.html").read_text() == PAGE
    assert cluster.out("report", "churn", "--no-open").startswith("churn-report.html written from ")
    code, _, err = cluster.call("report", "churn", "-o", str(stored / "no" / "such" / "folder.html"))
    assert (code, err) == (2, f"error: cannot write {stored}/no/such/folder.html: No such file or directory\n")


def test_it_opens_in_the_browser_of_the_user(cluster: Cluster, stored: Path, monkeypatch: pytest.MonkeyPatch):
    """In a file that only the user may read, of which there is one a job."""
    cluster.create("churn", finished(stored))
    browser, seen = stored / "browser", stored / "seen"
    browser.write_text(f"#!{sys.executable}\nimport sys\nopen({str(seen)!r}, 'w').write(sys.argv[1])\n")
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")

    said = cluster.out("report", "churn")

    page = stored / "cache" / "kubeautoml" / "reports" / f"{cluster.namespace}-churn.html"
    assert said == f"{page} opened in the browser; from file://{stored}/report.html\n"
    assert seen.read_text() == page.as_uri()
    assert page.read_text() == PAGE
    assert stat.S_IMODE(page.parent.stat().st_mode) == 0o700


def test_without_a_screen_it_says_where_it_is(cluster: Cluster, stored: Path):
    """On a server, over ssh."""
    cluster.create("churn", finished(stored))

    assert "-churn.html written from file://" in cluster.out("report", "churn")


def test_a_job_without_a_report_says_when_it_comes(cluster: Cluster):
    """Or that it never will."""
    cluster.create("busy", searching())
    cluster.create("lost", searching() | {"conditions": conditions(Succeeded="False WorkersFailed")})

    assert cluster.call("report", "busy") == (
        1,
        "",
        "error: AutoMLJob 'busy' has no report yet; it is written when the search has ended\n",
    )
    assert cluster.call("report", "lost")[2] == (
        "error: AutoMLJob 'lost' has ended without a model, so it has no report; see kubectl automl status lost\n"
    )


def test_a_report_on_a_volume_of_the_cluster_is_not_here(cluster: Cluster, tmp_path: Path):
    """file:// means the pods' disk."""
    cluster.create("churn", finished(tmp_path / "elsewhere"))

    code, _, err = cluster.call("report", "churn")

    assert code == 1
    assert "is on a volume of the cluster's pods, which this machine does not have" in err


@pytest.mark.s3
def test_it_comes_from_the_object_storage_that_the_profile_names(
    cluster: Cluster,
    s3_server: S3Server,
    s3_bucket: str,
    s3_credentials: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    """With the caller's keys; without them it says whose there are. The environment's address goes before the profile's."""
    uri = f"{s3_bucket.rstrip('/')}/report.html"
    open_store(uri, s3_credentials).write(uri, PAGE.encode())
    profile = {
        "apiVersion": "kubeautoml.dev/v1alpha1",
        "kind": "AutoMLProfile",
        "metadata": {"name": f"p-{cluster.namespace}"},
        "spec": {"objectStorage": {"endpointUrl": s3_server.settings["AWS_ENDPOINT_URL"]}},
    }
    cluster.admin.post("/apis/kubeautoml.dev/v1alpha1/automlprofiles", profile)
    output = {"uri": "s3://models", "secretRef": {"name": "models-rw"}}
    cluster.create("churn", finished(tmp_path), output=output, profileRef={"name": f"p-{cluster.namespace}"})
    cluster.admin.patch(f"{JOBS.format(cluster.namespace)}/churn/status", {"status": {"artifacts": {"reportUri": uri}}})

    code, out, err = cluster.call("report", "churn", "-o", str(tmp_path / "r.html"))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(
        f"error: {uri} needs credentials of yours that may read it: set AWS_PROFILE, or AWS_ACCESS_KEY_ID"
    )
    assert f"the job's are in the secret 'models-rw' of namespace '{cluster.namespace}'" in err

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, s3_server.settings[name])
    cluster.out("report", "churn", "-o", str(tmp_path / "r.html"))
    assert (tmp_path / "r.html").read_text() == PAGE

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    code, _, err = cluster.call("report", "churn", "-o", str(tmp_path / "r.html"))
    assert code == 1
    assert "http://127.0.0.1:9 may only be known inside the cluster: set AWS_ENDPOINT_URL to how you reach it" in err
