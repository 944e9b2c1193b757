"""Everything a few teams' jobs need, with a proxy in front of each server that pods or the operator talk to."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from chaos.observer import JOBS
from chaos.operators import OperatorReplica, kubeconfig_through, operator_command
from real.controlplane import ControlPlane
from real.kubelet import Kubelet
from real.proxy import FaultyProxy, faulty_proxy
from real.rest import Json
from real.restartable import RestartablePostgres, RestartableS3, restartable_postgres, restartable_s3
from real.study_server import StudyServerProcess

ROWS = 240
STUDY_LOG = "study-server.log"
FAMILIES = ["Linear", "ExtraTrees"]
"""Families whose trials take from a tenth of a second to one second on these rows."""


@dataclass(frozen=True)
class World:
    """What runs. Only the faults and the end of the test stop any of it."""

    plane: ControlPlane
    kubelet: Kubelet
    postgres: RestartablePostgres
    database_url: str
    s3: RestartableS3
    study_server: StudyServerProcess
    operators: list[OperatorReplica]
    api_proxy: FaultyProxy
    s3_proxy: FaultyProxy
    study_proxy: FaultyProxy
    namespaces: list[str]
    folder: Path

    def create_job(self, number: int, max_trials: int, parallelism: int, serve: bool) -> str:
        """One more AutoMLJob, in the next namespace: jobs of one name exist in each. Returns namespace/name."""
        namespace = self.namespaces[number % len(self.namespaces)]
        name = f"small-{number // len(self.namespaces)}"
        spec: Json = {
            "task": {"type": "TabularClassification", "target": "good"},
            "dataset": {"train": {"uri": "s3://lake/small.csv", "secretRef": {"name": "object-storage"}}},
            "objective": {"metric": "RocAuc"},
            "search": {"families": {"include": FAMILIES}, "seed": number, "pruner": {"type": "None"}},
            "budget": {"maxTrials": max_trials},
            "workers": {"parallelism": parallelism},
            "output": {"uri": "s3://models/chaos", "secretRef": {"name": "object-storage"}},
            **({"serving": {"replicas": 1}} if serve else {}),
        }
        manifest = {
            "apiVersion": "kubeautoml.dev/v1alpha1",
            "kind": "AutoMLJob",
            "metadata": {"name": name},
            "spec": spec,
        }
        self.plane.admin.post(JOBS.format(namespace), manifest)
        return f"{namespace}/{name}"


@contextmanager
def running_world(plane: ControlPlane, kubelet: Kubelet, folder: Path, replicas: int, tag: str) -> Iterator[World]:
    """Servers, namespaces with data and secrets, and the operator's replicas; all of it ended at the end.

    Args:
        tag: makes the names of the namespaces unique.
    """
    namespaces = [f"chaos-{tag}-a", f"chaos-{tag}-b"]
    with ExitStack() as stack:
        postgres = stack.enter_context(restartable_postgres())
        s3 = stack.enter_context(restartable_s3())
        database_url = postgres.server.create_database()
        study_server = StudyServerProcess(database_url, log=folder / STUDY_LOG)
        study_server.start()
        stack.callback(lambda: study_server.kill())
        api_proxy = stack.enter_context(faulty_proxy(urlsplit(plane.server).port or 0))
        s3_proxy = stack.enter_context(faulty_proxy(urlsplit(s3.server.endpoint_url).port or 0))
        study_proxy = stack.enter_context(faulty_proxy(study_server.port))
        _fill(plane, s3, s3_proxy, namespaces)
        for namespace in namespaces:
            stack.callback(plane.admin.delete, f"/api/v1/namespaces/{namespace}")
        kubeconfig = kubeconfig_through(api_proxy, plane, folder / "operator.kubeconfig")
        url = f"grpc://127.0.0.1:{study_proxy.port}"
        command = operator_command(plane, kubeconfig, url, namespaces)
        names = [f"operator-{n}" for n in range(replicas)]
        operators = [OperatorReplica(n, command, namespaces[0], folder / f"{n}.log") for n in names]
        for operator in operators:
            operator.start()
            stack.callback(operator.end)
        yield World(
            plane=plane,
            kubelet=kubelet,
            postgres=postgres,
            database_url=database_url,
            s3=s3,
            study_server=study_server,
            operators=operators,
            api_proxy=api_proxy,
            s3_proxy=s3_proxy,
            study_proxy=study_proxy,
            namespaces=namespaces,
            folder=folder,
        )


def table() -> list[dict[str, str]]:
    """The data: something to learn, small."""
    numbers = random.Random(1)
    rows = []
    for _ in range(ROWS):
        a, b, c, d = (numbers.gauss(0, 1) for _ in range(4))
        good = a + b * c + numbers.gauss(0, 0.5) > 0
        colour = numbers.choice(["red", "green", "blue"])
        values = {"a": f"{a:.4f}", "b": f"{b:.4f}", "c": f"{c:.4f}", "d": f"{d:.4f}"}
        rows.append({**values, "colour": colour, "good": "yes" if good else "no"})
    return rows


def _csv(rows: list[dict[str, str]]) -> bytes:
    out = io.StringIO()
    out.write(",".join(rows[0]) + "\n")
    out.writelines(",".join(row.values()) + "\n" for row in rows)
    return out.getvalue().encode()


def _fill(plane: ControlPlane, s3: RestartableS3, s3_proxy: FaultyProxy, namespaces: list[str]) -> None:
    """Buckets, data, and in each namespace the secret by which pods reach them, through the proxy."""
    for bucket in ("lake", "models"):
        s3.server.create_bucket(bucket)
    s3.server.client.put_object(Bucket="lake", Key="small.csv", Body=_csv(table()))
    settings = {**s3.server.settings, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_proxy.port}"}
    for namespace in namespaces:
        plane.create_namespace(namespace)
        secret = {"metadata": {"name": "object-storage"}, "stringData": settings}
        plane.admin.post(f"/api/v1/namespaces/{namespace}/secrets", secret)
