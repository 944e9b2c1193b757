"""On the real API server: the quick start's chapter about a cluster, from the secret to the deletion, and every manifest of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from acceptance.place import running_operator
from docs.first_steps import QUICK_START, free_port, in_one_shell, section, small_checkout
from docs.markdown_files import blocks
from real.controlplane import ADMIN_TOKEN, ControlPlane
from real.kubelet import Kubelet
from real.s3 import S3Server
from real.study_server import running_study_server

SERVER_ADDRESS = (
    "kubectl get pods -l kubeautoml.dev/component=server -o jsonpath='{.items[0].status.podIP}' | sed s/^10/127/"
)
"""Where the test kubelet's server listens: on the loopback address behind its pod's own."""

pytestmark = [pytest.mark.controlplane, pytest.mark.s3, pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_cluster_part_of_the_quick_start_does_what_it_says(
    control_plane: ControlPlane, kubelet: Kubelet, namespace: str, s3_server: S3Server, tmp_path: Path
) -> None:
    """All but its first step, which tests/install takes: the operator is there, as a process."""
    chapter = [b for b in section(QUICK_START, "On a cluster") if "helm install" not in b.text]
    folder = small_checkout(tmp_path)
    for bucket in ("lake", "models"):
        s3_server.create_bucket(bucket)
    lake = folder / "buckets" / "lake" / "titanic"
    subprocess.run(
        [sys.executable, str(folder / "examples" / "titanic.py"), str(lake)], check=True, capture_output=True
    )
    s3_server.client.upload_file(str(lake / "train.csv"), "lake", "titanic/train.csv")
    swaps = {
        "YOUR_KEY": s3_server.access_key,
        "YOUR_SECRET": f"{s3_server.secret_key} --from-literal=AWS_ENDPOINT_URL={s3_server.endpoint_url}",
        "aws s3 cp buckets/lake/titanic/train.csv s3://lake/titanic/train.csv": "true",  # done above, by another tool
        "get automljobs -w": "get automljobs",  # it goes on for ever
        # the test's API server has no way to a Service, so the pod itself is asked
        "predict titanic": f"predict titanic --url http://$({SERVER_ADDRESS}):8080",
    }
    kubeconfig = control_plane.kubeconfig_for("admin", ADMIN_TOKEN, namespace)

    with (
        running_study_server(f"sqlite:///{tmp_path}/study.db") as studies,
        running_operator(control_plane, namespace, studies.url, tmp_path / "operator.log"),
    ):
        done = in_one_shell(chapter, folder, free_port(), swaps, {"KUBECONFIG": str(kubeconfig)})

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{kubelet.all_logs(namespace)[-4000:]}"
    assert '"survived"' in done.stdout
    assert control_plane.admin.items(f"/apis/kubeautoml.dev/v1alpha1/namespaces/{namespace}/automlmodels")


def test_the_api_server_takes_every_manifest_of_ours_without_a_warning(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """All AutoMLJobs and AutoMLProfiles of the documentation, as a dry run that ends before anything is stored."""
    ours = [
        d
        for b in blocks("yaml")
        for d in yaml.safe_load_all(b.text)
        if d and "kubeautoml.dev" in d.get("apiVersion", "")
    ]
    for number, document in enumerate(ours):
        document["metadata"]["name"] = f"{document['metadata']['name']}-{number}"
        document["metadata"].pop("namespace", None)
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all(ours))
    kubectl = ["kubectl", "--kubeconfig", str(control_plane.kubeconfig), "-n", namespace]

    done = subprocess.run([*kubectl, "apply", "--dry-run=server", "-f", str(file)], capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == len(ours) > 15
