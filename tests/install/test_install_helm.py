"""The chart on a real API server with real Helm: installed, tested, upgraded, rolled back, removed."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

from install.conftest import HOME, RELEASE, ROOT, Cluster
from install.rendering import MATRIX, render
from kubeautoml import __version__
from kubeautoml.api.definitions import ANNOTATION_SCHEMA, ANNOTATION_VERSION
from kubeautoml.api.rights import DEFINITIONS
from real.controlplane import install_crds
from real.postgres import postgres_binaries
from real.restartable import restartable_postgres
from real.s3 import S3Server
from real.strip import is_known, strip

sys.path.insert(0, str(ROOT / "examples"))

from titanic import titanic

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(600)]


def wait_until(holds: Callable[[], Any], cluster: Cluster, what: str, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := holds()):
        assert time.monotonic() < deadline, f"{what} did not happen\n{cluster.logs()}"
        time.sleep(0.2)
    return result


def is_available(cluster: Cluster, name: str) -> bool:
    deployment = cluster.deployment(name)
    status = deployment.get("status", {})
    return bool(
        status.get("observedGeneration") == deployment["metadata"]["generation"]
        and status.get("updatedReplicas", 0) == status.get("availableReplicas", 0) == deployment["spec"]["replicas"]
    )


def pods_of(cluster: Cluster, app: str) -> list[tuple[str, int]]:
    """Name and restarts of each pod."""
    return [
        (p["metadata"]["name"], sum(c["restartCount"] for c in p.get("status", {}).get("containerStatuses", [])))
        for p in cluster.pods(app)
    ]


def kubectl(cluster: Cluster, *arguments: str, stdin: str | None = None) -> str:
    """Its output; a warning of the API server counts as an error, and what kubectl itself says of Helm's objects does not."""
    command = ["kubectl", "--kubeconfig", str(cluster.plane.kubeconfig), *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)
    warnings = [line for line in done.stderr.splitlines() if "last-applied-configuration" not in line]
    assert (done.returncode, warnings) == (0, []), done.stderr
    return done.stdout


def wait_available(cluster: Cluster) -> None:
    for name in ("kubeautoml-operator", "kubeautoml-study"):
        wait_until(lambda name=name: is_available(cluster, name), cluster, f"{name} available")  # type: ignore[misc]


def certificate(cluster: Cluster) -> str:
    return str(cluster.get(f"/api/v1/namespaces/{HOME}/secrets/kubeautoml-study-tls")["data"]["tls.crt"])


def test_one_command_installs_an_operator_that_works(
    cluster: Cluster, chart: Path, values: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    """From an empty cluster to a Ready operator and study server, in less than a minute of its own time."""
    began = time.monotonic()
    cluster.helm.install(chart, RELEASE, values, namespace=HOME, create_namespace=True, wait="watcher", timeout=240)
    wait_available(cluster)
    seconds = time.monotonic() - began
    record_property("seconds_to_ready", round(seconds, 1))
    print(f"helm install to a Ready operator: {seconds:.1f} s")

    assert [restarts for _, restarts in pods_of(cluster, "kubeautoml-operator")] == [0, 0]
    assert cluster.plane.admin.find("/apis/kubeautoml.dev/v1alpha1/automlprofiles/default") is not None
    left = [m["metadata"]["name"] for m in cluster.plane.admin.items(f"/apis/batch/v1/namespaces/{HOME}/jobs")]
    assert left == [], "Jobs of the install, and their accounts, are gone after it"


def test_helm_test_passes(cluster: Cluster) -> None:
    """The operator is ready, and the study server answers by its name over TLS, with its database behind it."""
    done = cluster.helm.test(RELEASE, timeout=120, logs=True)

    assert done["release"]["status"] == "deployed"
    assert done["logs"].count(": ok\n") == 2, done["logs"]


@pytest.mark.s3
@pytest.mark.slow
def test_the_readmes_manifest_runs_on_it_unedited(cluster: Cluster, s3_server: S3Server) -> None:
    """With the secret and the data alone: workers reach the study server by name, trust it, and leave a served model."""
    for bucket in ("lake", "models"):
        s3_server.create_bucket(bucket)
    s3_server.client.put_object(Bucket="lake", Key="titanic/train.csv", Body=titanic().to_csv(index=False).encode())
    literals = [f"--from-literal={name}={value}" for name, value in s3_server.settings.items()]
    kubectl(cluster, "create", "secret", "generic", "object-storage", *literals)
    kubectl(cluster, "apply", "-f", str(ROOT / "examples" / "titanic.yaml"))
    path = "/apis/kubeautoml.dev/v1alpha1/namespaces/default/automljobs/titanic"

    def status() -> dict[str, Any]:
        return dict(cluster.get(path).get("status", {}))

    def holds(kind: str) -> bool:
        return any(c["type"] == kind and c["status"] == "True" for c in status().get("conditions", []))

    def workers() -> list[int]:
        jobs = cluster.plane.admin.items("/apis/batch/v1/namespaces/default/jobs")
        return [m["spec"]["parallelism"] for m in jobs if m["metadata"]["name"].endswith("-worker")]

    wait_until(lambda: status().get("trials", {}).get("completed", 0) >= 1, cluster, "a trial", 300)
    # the Job can be changed with what its pods carry, and one trial is enough to see that all of it works
    cluster.plane.admin.patch(path, {"spec": {"workers": {"parallelism": 1}}})
    wait_until(lambda: max(workers(), default=0) <= 1, cluster, "a smaller Job")
    cluster.plane.admin.patch(path, {"spec": {"budget": {"maxTrials": 2}}})
    wait_until(lambda: holds("Ready"), cluster, "a served model", 300)
    assert not holds("Stalled")
    assert status()["serving"]["url"]
    kubectl(cluster, "delete", "automljob", "titanic", "--wait=false")


def test_what_helm_removes_leaves_jobs_trials_and_certificate(cluster: Cluster) -> None:
    """Pods, roles and policies go; CRDs, and what holds a user's work, stay."""
    job = {"apiVersion": "kubeautoml.dev/v1alpha1", "kind": "AutoMLJob", "metadata": {"name": "kept"}}
    spec = yaml.safe_load((ROOT / "examples" / "titanic.yaml").read_text())["spec"]
    jobs = "/apis/kubeautoml.dev/v1alpha1/namespaces/default/automljobs"
    cluster.plane.admin.post(jobs, {**job, "spec": {**spec, "suspend": True}})

    cluster.helm.uninstall(RELEASE, wait="watcher", timeout=120)

    def left(path: str) -> set[str]:
        items = cluster.plane.admin.items(path)
        return {m["metadata"]["name"] for m in items if m["metadata"]["name"].startswith("kubeautoml")}

    rbac = "/apis/rbac.authorization.k8s.io/v1"
    for path in (f"{rbac}/clusterroles", f"{rbac}/clusterrolebindings", f"/apis/apps/v1/namespaces/{HOME}/deployments"):
        assert left(path) == set()
    assert left(f"/api/v1/namespaces/{HOME}/persistentvolumeclaims") == {"kubeautoml-study"}
    assert left(f"/api/v1/namespaces/{HOME}/secrets") >= {"kubeautoml-study-tls"}
    assert cluster.plane.admin.find(f"{jobs}/kept") is not None
    cluster.plane.admin.delete(f"{jobs}/kept")


def test_an_upgrade_mends_older_definitions_and_a_rollback_keeps_the_new_ones(
    cluster: Cluster, chart: Path, values: dict[str, Any], tmp_path: Path
) -> None:
    """A release of an older chart, with an operator that is newer than the CRDs: it says so and waits; the upgrade's Job mends them,
    and the same release, claim and certificate go on. Going back touches no CRD."""
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    crd = f"{crds}/{DEFINITIONS[0]}"
    for name in DEFINITIONS:
        cluster.plane.admin.delete(f"{crds}/{name}")
    wait_until(lambda: not cluster.plane.admin.items(crds), cluster, "an end of the definitions")
    old_chart = older(chart, tmp_path / "kubeautoml")
    before = certificate(cluster)

    cluster.helm.install(old_chart, RELEASE, values, namespace=HOME, timeout=120)
    words = "automljobs.kubeautoml.dev is older than this operator: it is of version 0.0.1"
    wait_until(lambda: words in cluster.logs(), cluster, "a word on the older CRD")
    refusing = pods_of(cluster, "kubeautoml-operator")
    assert [restarts for _, restarts in refusing] == [0, 0] and not is_available(cluster, "kubeautoml-operator")

    cluster.helm.upgrade(chart, RELEASE, values, namespace=HOME, wait="watcher", timeout=240)
    wait_available(cluster)
    upgraded = cluster.get(crd)["metadata"]["annotations"]
    spec = cluster.get(crd)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert "constraints" in spec["properties"]
    managers = {m["manager"] for m in cluster.get(crd)["metadata"]["managedFields"] if m["operation"] == "Apply"}
    print("managers of the definition:", managers)
    assert upgraded[ANNOTATION_VERSION] == __version__ and upgraded[ANNOTATION_SCHEMA] != "another"
    assert certificate(cluster) == before

    cluster.helm.rollback(RELEASE, version=1, wait="watcher", timeout=240)
    wait_available(cluster)
    assert cluster.get(crd)["metadata"]["annotations"] == upgraded
    assert [r["revision"] for r in cluster.helm.history(RELEASE)] == [1, 2, 3]
    cluster.helm.uninstall(RELEASE, wait="watcher", timeout=120)


@pytest.mark.postgres
def test_a_database_that_is_down_at_the_install_is_waited_for(
    cluster: Cluster, chart: Path, values: dict[str, Any]
) -> None:
    """In namespaced mode, too: the operator works by Roles, the study servers say what they wait for, and nobody installs anew."""
    cluster.plane.admin.ensure("/api/v1/namespaces", {"metadata": {"name": "team-a"}})
    with restartable_postgres() as postgres:
        url = postgres.server.create_database()
        postgres.stop_at_once()
        kubectl(cluster, "-n", HOME, "create", "secret", "generic", "pg", f"--from-literal=dsn={url}")
        external = {"type": "External", "external": {"existingSecret": "pg", "key": "dsn"}}
        own = {**values, "database": external, "watchNamespaces": ["team-a"]}
        cluster.helm.install(chart, RELEASE, own, namespace=HOME, timeout=120)

        wait_until(lambda: is_available(cluster, "kubeautoml-operator"), cluster, "an operator by Roles only")
        wait_until(lambda: cluster.logs().count("cannot be opened") >= 2, cluster, "a word of both study servers")
        assert not is_available(cluster, "kubeautoml-study")
        waiting = pods_of(cluster, "kubeautoml-study")
        postgres.start()
        wait_available(cluster)

        assert pods_of(cluster, "kubeautoml-study") == waiting and [n for _, n in waiting] == [0, 0]
        assert url.rpartition("@")[0].rpartition(":")[2] not in cluster.logs()
        cluster.helm.uninstall(RELEASE, wait="watcher", timeout=120)


@pytest.mark.postgres
def test_the_bundled_database_serves_and_its_password_is_made_once(
    cluster: Cluster, chart: Path, values: dict[str, Any]
) -> None:
    """Two study servers find it by the secret's URL. An upgrade, and an install after a removal, find the password that is there:
    else they would not open what is on the volume."""
    cluster.node.entrypoints["docker.io/library/postgres"] = "postgres-entrypoint"
    cluster.node.folder.chmod(0o755)
    address = f"127.77.{os.getpid() // 250 % 250}.{os.getpid() % 250 + 1}"
    cluster.node.environment |= {"TEST_POSTGRES_BIN": str(postgres_binaries()), "PGHOSTADDR": address}
    bundled = {**values, "database": {"type": "Bundled"}, "crds": {"upgrade": False}}
    path = f"/api/v1/namespaces/{HOME}/secrets/kubeautoml-database"

    cluster.helm.install(chart, RELEASE, bundled, namespace=HOME, timeout=120)
    first = cluster.get(path)["data"]
    wait_available(cluster)
    assert cluster.deployment("kubeautoml-study")["status"]["readyReplicas"] == 2
    cluster.helm.upgrade(chart, RELEASE, bundled, namespace=HOME, timeout=120)
    upgraded = cluster.get(path)["data"]
    cluster.helm.uninstall(RELEASE, timeout=120)
    cluster.helm.install(chart, RELEASE, bundled, namespace=HOME, timeout=120)
    again = cluster.get(path)["data"]
    wait_available(cluster)
    cluster.helm.uninstall(RELEASE, wait="watcher", timeout=120)
    del cluster.node.environment["PGHOSTADDR"]

    password = base64.b64decode(first["password"]).decode()
    assert len(password) == 32 and first == upgraded == again
    url = base64.b64decode(first["url"]).decode()
    assert url == f"postgresql://kubeautoml:{password}@kubeautoml-database.{HOME}.svc/kubeautoml"


def test_monitors_and_alerts_come_where_the_cluster_knows_them(
    cluster: Cluster, chart: Path, values: dict[str, Any]
) -> None:
    """Left open in the values, it is decided by what the API server serves: nothing of it before, all of it after."""

    def kinds() -> set[str]:
        # a dry run installs no CRDs, so that it can hold no object of theirs
        own = {**values, "defaultProfile": {"create": False}}
        # and a client of its own for each, since one asks only once what the cluster knows
        with helm.Config(kubeconfig_path=cluster.plane.kubeconfig, namespace=HOME) as client:
            dry = client.install(chart, RELEASE, own, namespace=HOME, dry_run="server", timeout=60)
        return {m["kind"] for m in yaml.safe_load_all(dry["manifest"]) if m}

    monitoring = {"PodMonitor", "PrometheusRule"}
    assert not kinds() & monitoring
    install_crds(cluster.plane, Path(__file__).parent / "monitoring-crds")
    try:
        wait_until(lambda: kinds() >= monitoring, cluster, "a rendering with monitors", 60)
    finally:
        for name in ("podmonitors", "prometheusrules"):
            path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
            cluster.plane.admin.delete(f"{path}/{name}.monitoring.coreos.com")


@pytest.mark.parametrize("name", [n for n in MATRIX if n != "default"])
def test_the_api_server_takes_every_rendering_without_a_warning(cluster: Cluster, name: str) -> None:
    """Defaults and validation of a real server, for a matrix of values; kinds of the Prometheus Operator are not installed."""
    for team in MATRIX[name].get("watchNamespaces", ()):
        cluster.plane.admin.ensure("/api/v1/namespaces", {"metadata": {"name": team}})
    objects = [m for m in render(MATRIX[name]) if is_known(m, cluster.plane.version)]
    known = [strip(m, cluster.plane.version) for m in objects if "monitoring.coreos.com" not in m["apiVersion"]]

    said = kubectl(cluster, "apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump_all(known))

    assert said.count("(server dry run)") == len(known)


def older(chart: Path, copy: Path) -> Path:
    """A chart of version 0.0.9 with a definition of 0.0.1, which has a field less."""
    shutil.copytree(chart, copy)
    about = yaml.safe_load((copy / "Chart.yaml").read_text())
    (copy / "Chart.yaml").write_text(yaml.safe_dump({**about, "version": "0.0.9", "appVersion": "0.0.9"}))
    file = copy / "crds" / "kubeautoml.dev_automljobs.yaml"
    crd = yaml.safe_load(file.read_text())
    crd["metadata"]["annotations"] = {ANNOTATION_VERSION: "0.0.1", ANNOTATION_SCHEMA: "another"}
    del crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["constraints"]
    file.write_text(yaml.safe_dump(crd))
    return copy


@pytest.mark.parametrize("way", ["-k", "-f"])
def test_kubectl_alone_installs_it_too(cluster: Cluster, way: str) -> None:
    """The kustomize base and the one file, as they are but for what an old server does not know, without a warning."""
    folder = ROOT / "kustomize"
    text = kubectl(cluster, "kustomize", str(folder / "base")) if way == "-k" else (folder / "install.yaml").read_text()
    objects = [m for m in yaml.safe_load_all(text) if is_known(m, cluster.plane.version)]
    stripped = yaml.safe_dump_all(strip(m, cluster.plane.version) for m in objects)
    try:
        said = kubectl(cluster, "apply", "-f", "-", stdin=stripped)
        assert said.count("\n") == len(objects)
        wait_available(cluster)
        assert kubectl(cluster, "apply", "-f", str(folder / "default-profile.yaml")).startswith("automlprofile")
    finally:
        kept = ("CustomResourceDefinition", "Namespace")
        gone = yaml.safe_dump_all(m for m in objects if m["kind"] not in kept)
        kubectl(cluster, "delete", "-f", "-", "--ignore-not-found", "--wait=true", stdin=gone)
