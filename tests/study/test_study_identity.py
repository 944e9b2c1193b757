"""Who a caller is, while the API server answers and while it does not; and that no call is left unguarded."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from optuna.storages._grpc.auto_generated import api_pb2

from kubeautoml.api.errors import ClusterError, UsageError
from kubeautoml.api.names import (
    LABEL_JOB,
    LABEL_JOB_UID,
    STUDY_TOKEN_AUDIENCE,
    Component,
    finalizer_job_name,
    labels,
    worker_job_name,
)
from kubeautoml.study.access import USE_OF, Access, is_own
from kubeautoml.study.identity import (
    KNOWN_SECONDS,
    MOST_KNOWN,
    REFUSED_SECONDS,
    STALE_SECONDS,
    Caller,
    Callers,
    Forbidden,
    Unauthenticated,
)
from kubeautoml.study.kube_api import KubeApi, TokenUser
from kubeautoml.study.protocol import METHODS

POD = TokenUser("system:serviceaccount:team-a:default", "churn-worker-x", "pod-uid")


@dataclass
class FakeApi:
    """An API server that knows one pod, counts its reviews, and may be away."""

    user: TokenUser | None = POD
    is_away: bool = False
    reviews: int = 0
    metadata: dict[str, Any] | None = field(
        default_factory=lambda: {
            "uid": "pod-uid",
            "labels": {LABEL_JOB: "churn", LABEL_JOB_UID: "1"},
            "ownerReferences": [{"kind": "Job", "controller": True, "name": worker_job_name("churn", "1")}],
        }
    )

    def review(self, token: str, audience: str) -> TokenUser | None:
        self.reviews += 1
        if self.is_away:
            raise ClusterError("API server did not answer")
        return self.user

    def pod_metadata(self, namespace: str, name: str) -> dict[str, Any] | None:
        return self.metadata


@dataclass
class Clock:
    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


def header(name: str = "one", exp: float = 1e6, aud: object = STUDY_TOKEN_AUDIENCE) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": exp, "aud": aud, "sub": name}).encode()).decode().rstrip("=")
    return f"Bearer head.{claims}.signature"


def make_callers(api: FakeApi, **options: Any) -> tuple[Callers, Clock, list[str]]:
    clock, counted = Clock(), list[str]()
    return Callers(api, now=clock, count=counted.append, **options), clock, counted


def test_a_known_caller_is_not_reviewed_again_for_a_while():
    """One review a token and minute, however many calls; then another."""
    api = FakeApi()
    callers, clock, counted = make_callers(api)

    seen = [callers.identify(header()) for _ in range(3)]
    clock.seconds += KNOWN_SECONDS
    callers.identify(header())

    assert seen == [Caller(False, "team-a", "churn-worker-x", "1", "churn", worker_job_name("churn", "1"))] * 3
    assert (api.reviews, counted) == (2, ["miss", "hit", "hit", "miss"])


def test_an_answer_is_not_trusted_beyond_the_tokens_end():
    """A token that ends in ten seconds is refused in eleven, without asking anybody."""
    api = FakeApi()
    callers, clock, _ = make_callers(api)
    callers.identify(header(exp=clock.seconds + 10))
    clock.seconds += 11

    with pytest.raises(Unauthenticated, match="has expired"):
        callers.identify(header(exp=clock.seconds - 1))
    assert api.reviews == 1


def test_a_refusal_is_remembered_for_a_moment_only():
    """A pod that the API server did not know yet gets in soon after."""
    api = FakeApi(user=None)
    callers, clock, _ = make_callers(api)
    for _ in range(2):
        with pytest.raises(Unauthenticated, match="false, expired"):
            callers.identify(header())
    api.user = POD
    clock.seconds += REFUSED_SECONDS

    assert callers.identify(header()).pod == "churn-worker-x"
    assert api.reviews == 2


def test_while_the_api_server_is_away_known_callers_go_on_and_new_ones_wait():
    """For a bounded time; nobody new gets in, and nobody for ever."""
    api = FakeApi()
    callers, clock, counted = make_callers(api)
    callers.identify(header("known"))
    api.is_away = True
    clock.seconds += KNOWN_SECONDS + 1

    still = callers.identify(header("known"))
    with pytest.raises(ClusterError):
        callers.identify(header("new"))
    clock.seconds += STALE_SECONDS
    with pytest.raises(ClusterError):
        callers.identify(header("known"))

    assert still.pod == "churn-worker-x"
    assert counted == ["miss", "stale", "unavailable", "unavailable"]


def test_a_refused_caller_does_not_get_in_when_the_api_server_goes_away():
    """Its refusal is no answer to go on with."""
    api = FakeApi(user=None)
    callers, clock, _ = make_callers(api)
    with pytest.raises(Unauthenticated):
        callers.identify(header())
    api.is_away = True
    clock.seconds += REFUSED_SECONDS

    with pytest.raises(ClusterError):
        callers.identify(header())


def test_what_is_remembered_is_bounded_and_holds_no_token():
    """Ten thousand tokens do not fill the server's memory; what is kept is a hash of each."""
    callers, _, _ = make_callers(FakeApi())
    for number in range(MOST_KNOWN + 50):
        callers.identify(header(str(number)))

    assert len(callers._known) == MOST_KNOWN
    assert {len(key) for key in callers._known} == {32}


@pytest.mark.parametrize(
    ("authorization", "why"),
    [
        ("", "carries no token"),
        ("Basic abc", "carries no token"),
        ("Bearer ", "carries no token"),
        ("Bearer a.b.c", "not one of a service account"),
        (header(aud="somebody-else"), "not for the audience"),
        (header(aud=["a", "b"]), "not for the audience"),
        (header(exp=5), "has expired"),
        ("Bearer a." + base64.urlsafe_b64encode(b"[1]").decode() + ".c", "not one of a service account"),
        ("Bearer a." + base64.urlsafe_b64encode(b'{"exp": "x", "aud": 3}').decode() + ".c", "not one of"),
        ("Bearer a." + base64.urlsafe_b64encode(b'{"exp": 1e9, "aud": 3}').decode() + ".c", "not one of"),
    ],
)
def test_what_is_plainly_no_good_is_not_even_reviewed(authorization: str, why: str):
    """So that rubbish costs the API server nothing."""
    api = FakeApi()
    callers, _, _ = make_callers(api)

    with pytest.raises(Unauthenticated, match=why):
        callers.identify(authorization)
    assert api.reviews == 0


@pytest.mark.parametrize(
    ("change", "kind", "why"),
    [
        ({"metadata": None}, Unauthenticated, "pod is gone"),
        ({"metadata": {"uid": "another"}}, Unauthenticated, "pod is gone"),
        ({"metadata": {"uid": "pod-uid"}}, Forbidden, "belongs to no AutoMLJob"),
        ({"user": TokenUser("system:serviceaccount:team-a:default")}, Forbidden, "bound to no pod"),
        ({"user": TokenUser("system:node:n1", "p", "pod-uid")}, Forbidden, "bound to no pod"),
        ({"user": TokenUser("operator-account-x", "p", "pod-uid")}, Forbidden, "bound to no pod"),
    ],
)
def test_a_good_token_is_not_enough(change: dict[str, Any], kind: type[Exception], why: str):
    """It must be of a pod that is there and works for a job, or of an operator by its full name."""
    callers, _, _ = make_callers(FakeApi(**change), operators=frozenset({"operator-account"}))

    with pytest.raises(kind, match=why):
        callers.identify(header())


def test_an_operator_is_known_by_its_account():
    """Whether or not its token is bound to a pod."""
    account = "system:serviceaccount:kubeautoml-system:kubeautoml-operator"
    callers, _, _ = make_callers(FakeApi(user=TokenUser(account)), operators=frozenset({account}))

    assert callers.identify(header()).is_operator


def _caller(job: str, uid: str, owner: str | None = None) -> Caller:
    label = labels(job, uid, Component.WORKER)[LABEL_JOB]
    return Caller(False, "team-a", "pod", uid, label, owner or worker_job_name(job, uid))


@pytest.mark.parametrize(
    ("study", "caller", "expected"),
    [
        ("team-a/churn/1", _caller("churn", "1"), True),
        ("team-a/churn/1", _caller("churn", "1", finalizer_job_name("churn", "1")), True),
        (f"team-a/{'long' * 40}/1", _caller("long" * 40, "1"), True),
        ("team-b/churn/1", _caller("churn", "1"), False),
        ("team-a/churn/2", _caller("churn", "1"), False),
        ("team-a/other/1", _caller("churn", "1"), False),
        ("team-a/churn/1", _caller("churn", "1", worker_job_name("other", "1")), False),
        ("team-a/churn/1", _caller("churn", "1", worker_job_name("churn", "2")), False),
        ("team-a/churn/1/x", _caller("churn", "1"), False),
        ("team-a//1", _caller("", "1"), False),
        ("", _caller("churn", "1"), False),
    ],
)
def test_a_study_is_own_only_if_all_witnesses_agree(study: str, caller: Caller, expected: bool):
    """Namespace, uid, the label of the job's name, and the name of the Job that controls the pod."""
    assert is_own(caller, study) is expected


class _NoNames:
    """A database without studies."""

    def get_study_id_from_name(self, study_name: str) -> int:
        raise KeyError(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        raise KeyError(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        raise KeyError(study_id)

    def study_of(self, trial_id: int) -> int:
        raise KeyError(trial_id)

    def list_studies(self, prefix: str = "") -> list[str]:
        return []


def test_every_call_of_both_protocols_is_guarded():
    """A call that a later Optuna adds is refused to pods until somebody has said what it does."""
    optunas = {method.name for method in api_pb2.DESCRIPTOR.services_by_name["StorageService"].methods}
    ours = {method.name for method in METHODS}

    assert set(USE_OF) == optunas | ours
    with pytest.raises(Forbidden, match="for the operator only"):
        Access(_NoNames()).check(_caller("churn", "1"), "CallOfALaterVersion", None)


def test_an_api_server_is_reached_by_tls_only():
    """A token review in clear text would give away the tokens of all."""
    with pytest.raises(UsageError, match="must be https://"):
        KubeApi("http://10.0.0.1", None, None)  # type: ignore[arg-type]


def test_an_address_of_version_six_is_bracketed():
    """As pods of such clusters find it."""
    api = KubeApi.in_cluster({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"})

    assert api.url == "https://[fd00::1]:6443"
