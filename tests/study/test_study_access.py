"""Who gets into which study: real tokens of real pods, reviewed by a real API server."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.storages._grpc.auto_generated import api_pb2

from kubeautoml.api.errors import StudyError
from kubeautoml.api.names import STUDY_TOKEN_AUDIENCE, Component, labels, study_name, worker_job_name
from kubeautoml.api.rights import STUDY_SERVER, STUDY_SERVER_CLUSTER, rules
from kubeautoml.api.trials import RetireTrial, StudyAttr, StudyLimits, StudyOrders
from kubeautoml.study import (
    carry_out_orders,
    create_study,
    delete_study,
    latest_study,
    list_studies,
    load_summary,
    open_study_storage,
    read_limits,
    set_study_attr,
)
from kubeautoml.study.database import open_backend
from kubeautoml.study.kube_api import KubeApi
from kubeautoml.study.remote import open_remote
from kubeautoml.study.server import StudyServer
from real.controlplane import ControlPlane
from real.rest import Json

pytestmark = pytest.mark.controlplane

OPERATOR = "system:serviceaccount:{namespace}:study-test-operator"


@dataclass(frozen=True)
class JobPod:
    """A worker's pod and where its token is."""

    namespace: str
    job: str
    uid: str
    name: str
    pod_uid: str
    token_file: Path

    @property
    def study(self) -> str:
        return study_name(self.namespace, self.job, self.uid)


@dataclass
class Tenants:
    """Namespaces with pods of jobs, and a study server that knows whose they are."""

    plane: ControlPlane
    server: StudyServer
    folder: Path
    operator: BaseStorage

    def pod(self, namespace: str, job: str) -> JobPod:
        """A pod of a job that the Job controller has made, with its token."""
        uid = str(uuid.uuid4())
        labelled = labels(job, uid, Component.WORKER)
        name = worker_job_name(job, uid)
        self.plane.admin.post(f"/apis/batch/v1/namespaces/{namespace}/jobs", _batch_job(name, labelled))
        made = _eventually(
            lambda: self.plane.admin.items(f"/api/v1/namespaces/{namespace}/pods?labelSelector=job-name={name}")
        )
        pod, pod_uid = made[0]["metadata"]["name"], made[0]["metadata"]["uid"]
        token_file = self.folder / f"{pod}.token"
        token_file.write_text(self.token(namespace, pod, pod_uid))
        return JobPod(namespace, job, uid, pod, pod_uid, token_file)

    def token(self, namespace: str, pod: str = "", pod_uid: str = "", audience: str = STUDY_TOKEN_AUDIENCE) -> str:
        """What TokenRequest gives, as the kubelet asks for it."""
        bound = {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": pod_uid}} if pod else {}
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [audience], "expirationSeconds": 600, **bound},
        }
        answer = self.plane.admin.post(f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token", request)
        return str(answer["status"]["token"])

    def open(self, token: Path | str | None) -> BaseStorage:
        """The study server as the bearer of a token sees it."""
        file = token
        if isinstance(token, str):
            file = self.folder / f"{uuid.uuid4()}.token"
            file.write_text(token)
        assert file is None or isinstance(file, Path)
        return open_remote(
            f"127.0.0.1:{self.server.port}", False, file, None, patience_seconds=2.0
        )  # longer than a channel rests

    def denied(self) -> float:
        """Calls that were refused so far."""
        metrics = [m for m in self.server.metrics.denied.collect()[0].samples if m.name.endswith("_total")]
        return sum(sample.value for sample in metrics)


@pytest.fixture
def tenants(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Tenants]:
    """A server that asks the API server with the rights that the product grants it."""
    for account in ("study-test-server", "study-test-operator"):
        control_plane.admin.post(f"/api/v1/namespaces/{namespace}/serviceaccounts", _named("ServiceAccount", account))
    _grant(control_plane, namespace)
    (tmp_path / "server.token").write_text(control_plane.token(namespace, "study-test-server"))
    api = KubeApi(control_plane.server, tmp_path / "server.token", control_plane.ca_file)
    database = open_backend(f"sqlite:///{tmp_path}/study.db")
    server = StudyServer(database, "127.0.0.1:0", api=api, operators=[OPERATOR.format(namespace=namespace)])
    server.start()
    (tmp_path / "operator.token").write_text(
        control_plane.token(namespace, "study-test-operator", (STUDY_TOKEN_AUDIENCE,))
    )
    operator = open_study_storage(f"grpc://127.0.0.1:{server.port}", tmp_path / "operator.token")
    yield Tenants(control_plane, server, tmp_path, operator)
    server.stop()


@pytest.fixture
def other_namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A second tenant's."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    control_plane.create_namespace(name)
    yield name
    control_plane.admin.delete(f"/api/v1/namespaces/{name}")


def _named(kind: str, name: str, version: str = "v1") -> Json:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}}


def _grant(plane: ControlPlane, namespace: str) -> None:
    group, name = "rbac.authorization.k8s.io", f"study-test-{namespace}"
    role = {**_named("ClusterRole", name, f"{group}/v1"), "rules": rules(STUDY_SERVER, STUDY_SERVER_CLUSTER)}
    binding = {
        **_named("ClusterRoleBinding", name, f"{group}/v1"),
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": "study-test-server", "namespace": namespace}],
    }
    plane.admin.post(f"/apis/{group}/v1/clusterroles", role)
    plane.admin.post(f"/apis/{group}/v1/clusterrolebindings", binding)


def _batch_job(name: str, labelled: dict[str, str]) -> Json:
    container = {"name": "worker", "image": "worker", "command": ["sleep", "300"]}
    template = {"metadata": {"labels": labelled}, "spec": {"restartPolicy": "Never", "containers": [container]}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labelled},
        "spec": {"template": template, "backoffLimit": 0},
    }


def _eventually(look: Any) -> Any:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not come to be within 60 s")


def refused(call: Any, match: str) -> str:
    """The one line that a refused call ends with."""
    with pytest.raises(StudyError, match=match) as caught:
        call()
    return str(caught.value)


def test_a_pod_uses_its_own_study_and_no_other(tenants: Tenants, namespace: str, other_namespace: str):
    """Two namespaces with a job of the same name share nothing: neither by name, nor by id, nor in a list."""
    ours, theirs = tenants.pod(namespace, "churn"), tenants.pod(other_namespace, "churn")
    mine = create_study(tenants.open(ours.token_file), ours.study, "maximize")
    foreign = create_study(tenants.open(theirs.token_file), theirs.study, "maximize")
    for study in (mine, foreign):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, 0.5)
    storage = tenants.open(ours.token_file)

    refused(lambda: create_study(storage, theirs.study, "maximize"), "refused this pod")
    refused(lambda: storage.get_study_id_from_name(theirs.study), "concerns no study of the job")
    refused(lambda: load_summary(storage, theirs.study), "concerns no study of the job")
    refused(lambda: storage.get_all_trials(foreign._study_id), "concerns no study of the job")
    refused(lambda: storage.get_trial(foreign.trials[0]._trial_id), "concerns no study of the job")
    listed = [s.study_name for s in storage.get_all_studies()]
    own = load_summary(storage, ours.study)

    assert listed == [ours.study]
    assert own is not None
    assert own.completed == 1


def test_ids_cannot_be_guessed(tenants: Tenants, namespace: str, other_namespace: str):
    """A foreign trial or study and one that was never there are refused with the same words, whatever the call."""
    ours, theirs = tenants.pod(namespace, "churn"), tenants.pod(other_namespace, "churn")
    create_study(tenants.open(ours.token_file), ours.study, "maximize")
    foreign = create_study(tenants.open(theirs.token_file), theirs.study, "maximize")
    trial_id = foreign.ask()._trial_id
    storage: Any = tenants.open(ours.token_file)

    def answers(study_id: int, trial_id: int) -> list[str]:
        requests = {
            "GetStudyNameFromId": api_pb2.GetStudyNameFromIdRequest(study_id=study_id),
            "GetStudyDirections": api_pb2.GetStudyDirectionsRequest(study_id=study_id),
            "GetStudyUserAttributes": api_pb2.GetStudyUserAttributesRequest(study_id=study_id),
            "GetStudySystemAttributes": api_pb2.GetStudySystemAttributesRequest(study_id=study_id),
            "SetStudyUserAttribute": api_pb2.SetStudyUserAttributeRequest(study_id=study_id, key="stage", value='"x"'),
            "SetStudySystemAttribute": api_pb2.SetStudySystemAttributeRequest(study_id=study_id, key="a", value='"x"'),
            "CreateNewTrial": api_pb2.CreateNewTrialRequest(study_id=study_id, template_trial_is_none=True),
            "CreateTrial": api_pb2.CreateNewTrialRequest(study_id=study_id, template_trial_is_none=True),
            "GetTrials": api_pb2.GetTrialsRequest(study_id=study_id, trial_id_greater_than=-1),
            "GetWaitingTrials": api_pb2.GetTrialsRequest(study_id=study_id),
            "GetTrialIdFromStudyIdTrialNumber": api_pb2.GetTrialIdFromStudyIdTrialNumberRequest(study_id=study_id),
            "GetTrial": api_pb2.GetTrialRequest(trial_id=trial_id),
            "ClaimTrial": api_pb2.GetTrialRequest(trial_id=trial_id),
            "WriteTrial": api_pb2.Trial(trial_id=trial_id, state=api_pb2.FAIL),
            "SetTrialParameter": api_pb2.SetTrialParameterRequest(trial_id=trial_id, param_name="x"),
            "SetTrialStateValues": api_pb2.SetTrialStateValuesRequest(trial_id=trial_id, state=api_pb2.FAIL),
            "SetTrialIntermediateValue": api_pb2.SetTrialIntermediateValueRequest(trial_id=trial_id),
            "SetTrialUserAttribute": api_pb2.SetTrialUserAttributeRequest(trial_id=trial_id, key="a", value="1"),
            "SetTrialSystemAttribute": api_pb2.SetTrialSystemAttributeRequest(trial_id=trial_id, key="a", value="1"),
        }
        return [refused(lambda c=c, r=r: storage._stub.call(c, r), "PERMISSION_DENIED") for c, r in requests.items()]

    assert answers(foreign._study_id, trial_id) == answers(foreign._study_id + 1000, trial_id + 1000)
    assert [t.state.name for t in foreign.trials] == ["RUNNING"]


def test_what_is_the_operators_is_not_a_pods(tenants: Tenants, namespace: str):
    """Limits and warm starts have one writer; pods neither delete nor list studies, nor look for retries."""
    pod = tenants.pod(namespace, "churn")
    storage: Any = tenants.open(pod.token_file)
    study = create_study(storage, pod.study, "maximize")
    limits = StudyLimits(max_trials=5, max_failed_trials=1)
    before = tenants.denied()

    for attr in (StudyAttr.LIMITS, StudyAttr.WARM_START):
        message = refused(lambda attr=attr: set_study_attr(study, attr, limits), "is written by the operator only")
        assert "\n" not in message
    refused(lambda: delete_study(storage, pod.study), "for the operator only")
    refused(lambda: list_studies(storage), "for the operator only")
    refused(lambda: latest_study(storage, f"{namespace}/"), "for the operator only")
    refused(lambda: storage.unretried_trials(study._study_id), "for the operator only")
    set_study_attr(study, StudyAttr.STAGE, "Ensembling")
    carry_out_orders(tenants.operator, pod.study, StudyOrders(limits=limits))

    assert read_limits(study) == limits
    assert tenants.denied() - before == 6


def test_the_operator_may_touch_every_study(tenants: Tenants, namespace: str):
    """It gives orders, summarises, lists and deletes."""
    pod = tenants.pod(namespace, "churn")
    study = create_study(tenants.open(pod.token_file), pod.study, "maximize")
    trial = study.ask()
    trial.set_user_attr("pod_uid", pod.pod_uid)
    study.tell(study.ask(), 1.0)

    carry_out_orders(tenants.operator, pod.study, StudyOrders(retire=(RetireTrial(0, 1, "Preempted", True),)))
    seen = load_summary(tenants.operator, pod.study)
    latest = latest_study(tenants.operator, f"{namespace}/churn/")
    deleted = [delete_study(tenants.operator, pod.study) for _ in range(2)]

    assert seen is not None
    assert (seen.completed, seen.preempted, seen.waiting) == (1, 1, 1)
    assert (latest, deleted) == (pod.study, [True, False])
    assert list_studies(tenants.operator, f"{namespace}/") == []


def test_a_warm_start_opens_studies_of_the_same_namespace_for_reading(
    tenants: Tenants, namespace: str, other_namespace: str
):
    """Exactly those that the operator lists, and not for writing; another namespace's stay shut even when listed."""
    old, new = tenants.pod(namespace, "old"), tenants.pod(namespace, "new")
    unlisted, theirs = tenants.pod(namespace, "unlisted"), tenants.pod(other_namespace, "old")
    for pod in (old, new, unlisted, theirs):
        study = create_study(tenants.open(pod.token_file), pod.study, "maximize")
        study.tell(study.ask(), 0.25)
    operators = optuna.load_study(storage=tenants.operator, study_name=new.study)
    storage = tenants.open(new.token_file)
    refused(lambda: optuna.load_study(storage=storage, study_name=old.study), "concerns no study")

    set_study_attr(operators, StudyAttr.WARM_START, [old.study, theirs.study])
    warm = optuna.load_study(storage=storage, study_name=old.study)

    assert [t.value for t in warm.get_trials()] == [0.25]
    assert {s.study_name for s in storage.get_all_studies()} == {new.study, old.study}
    refused(lambda: warm.ask(), "concerns no study")
    refused(lambda: warm.set_user_attr("stage", "x"), "concerns no study")
    for closed in (unlisted, theirs):
        refused(lambda closed=closed: optuna.load_study(storage=storage, study_name=closed.study), "concerns no study")


def test_a_token_opens_only_the_study_of_its_own_pod(tenants: Tenants, namespace: str):
    """Two jobs of one namespace and one service account: with the other pod's token a pod is the other pod."""
    first, second = tenants.pod(namespace, "first"), tenants.pod(namespace, "second")
    create_study(tenants.open(first.token_file), first.study, "maximize")
    create_study(tenants.open(second.token_file), second.study, "maximize")

    swapped = tenants.open(second.token_file)

    refused(lambda: create_study(swapped, first.study, "maximize"), "concerns no study")
    assert create_study(swapped, second.study, "maximize").study_name == second.study


def test_tokens_that_are_not_good_are_refused(tenants: Tenants, namespace: str):
    """None, forged, of another audience, bound to no pod, of a pod of no job; and the answer never shows a token."""
    pod = tenants.pod(namespace, "churn")
    good = pod.token_file.read_text()
    stranger = tenants.plane.admin.post(f"/api/v1/namespaces/{namespace}/pods", _stranger())["metadata"]
    cases = {
        "none": (None, "carries no token"),
        "no token at all": ("not-a-token", "not one of a service account"),
        "forged signature": (_forged(good), "false, expired, of another audience"),
        "forged name": (_altered(good), "false, expired, of another audience"),
        "expired": (_altered(good, exp=int(time.time()) - 5), "has expired"),
        "another audience": (
            tenants.token(namespace, pod.name, pod.pod_uid, audience="somebody-else"),
            "not for the audience",
        ),
        "bound to no pod": (tenants.token(namespace), "bound to no pod"),
        "a pod of no job": (tenants.token(namespace, stranger["name"], stranger["uid"]), "belongs to no AutoMLJob"),
    }
    for what, (token, why) in cases.items():
        message = refused(lambda token=token: create_study(tenants.open(token), pod.study, "maximize"), why)
        assert token is None or token not in message, what
    assert create_study(tenants.open(pod.token_file), pod.study, "maximize").study_name == pod.study


def test_a_deleted_pods_token_is_refused(tenants: Tenants, namespace: str):
    """A server that has not seen it before refuses it at once."""
    pod = tenants.pod(namespace, "churn")
    path = f"/api/v1/namespaces/{namespace}/pods/{pod.name}"
    tenants.plane.admin.delete(path, {"gracePeriodSeconds": 0})
    _eventually(lambda: (tenants.plane.admin.find(path) or {"metadata": {}})["metadata"].get("uid") != pod.pod_uid)

    refused(lambda: create_study(tenants.open(pod.token_file), pod.study, "maximize"), "its pod is gone")


def test_labels_alone_open_nothing(tenants: Tenants, namespace: str):
    """A pod that wears another job's labels, but that no Job of that job controls, stays outside."""
    pod = tenants.pod(namespace, "churn")
    manifest = _stranger()
    manifest["metadata"]["labels"] = labels("churn", pod.uid, Component.WORKER)
    impostor = tenants.plane.admin.post(f"/api/v1/namespaces/{namespace}/pods", manifest)["metadata"]

    storage = tenants.open(tenants.token(namespace, impostor["name"], impostor["uid"]))

    refused(lambda: create_study(storage, pod.study, "maximize"), "belongs to no AutoMLJob")


def test_health_needs_no_token(tenants: Tenants):
    """A kubelet's probe has none."""
    with grpc.insecure_channel(f"127.0.0.1:{tenants.server.port}") as channel:
        answer = channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10)

    assert answer == b"\x08\x01"


def test_a_server_without_rights_lets_nobody_in(tenants: Tenants, namespace: str, tmp_path: Path):
    """An API server that refuses to review is one that is away: come again, never an open door."""
    pod = tenants.pod(namespace, "churn")
    token = tmp_path / "poor.token"
    token.write_text(tenants.plane.token(namespace, "default"))
    api = KubeApi(tenants.plane.server, token, tenants.plane.ca_file)
    server = StudyServer(open_backend(f"sqlite:///{tmp_path}/other.db"), "127.0.0.1:0", api=api)
    server.start()
    storage = open_remote(f"127.0.0.1:{server.port}", False, pod.token_file, None, patience_seconds=0.2)

    refused(lambda: create_study(storage, pod.study, "maximize"), "UNAVAILABLE: the API server did not say")
    server.stop()


def _stranger() -> Json:
    container = {"name": "c", "image": "c", "command": ["sleep", "300"]}
    name = f"stranger-{uuid.uuid4().hex[:6]}"
    return {**_named("Pod", name), "spec": {"restartPolicy": "Never", "containers": [container]}}


def _forged(token: str) -> str:
    """The same claims under another signature."""
    head, claims, signature = token.split(".")
    return ".".join((head, claims, signature[::-1]))


def _altered(token: str, **changes: object) -> str:
    """Other claims under the same signature."""
    head, claims, signature = token.split(".")
    given = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    given = {**given, "sub": "system:serviceaccount:kube-system:default", **changes}
    changed = base64.urlsafe_b64encode(json.dumps(given).encode()).decode().rstrip("=")
    return ".".join((head, changed, signature))
