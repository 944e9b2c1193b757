"""Turns the token that a call carries into who is calling: the operator, or a pod and the job that it works for.

The API server decides, by a TokenReview; its answers are kept for a short time. While it is away those whom it has named before
may go on for a while, and new ones are told to come again: there is never a way in without it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from kubeautoml.api.errors import ClusterError, KubeAutoMLError
from kubeautoml.api.names import LABEL_JOB, LABEL_JOB_UID, STUDY_TOKEN_AUDIENCE
from kubeautoml.study.kube_api import TokenUser

log = logging.getLogger(__name__)

KNOWN_SECONDS = 60.0
"""How long an answer is trusted, and so how long a deleted pod's token still works at most."""

REFUSED_SECONDS = 5.0
"""How long a refusal is remembered: a pod that the API server did not know a moment ago may be known now."""

STALE_SECONDS = 900.0
"""How long a known caller may go on while the API server is away: workers should outlive an upgrade of the control plane."""

MOST_KNOWN = 4096
_LOCKS = 32
_ACCOUNT = "system:serviceaccount:"


class Unauthenticated(KubeAutoMLError):
    """The call carries no token, or one that the API server refuses."""

    default_reason = "Unauthenticated"


class Forbidden(KubeAutoMLError):
    """The caller is known, and may not do this."""

    default_reason = "Forbidden"


@dataclass(frozen=True)
class Caller:
    """Who calls. The operator may do anything; a pod works for the job that its labels and its owner name."""

    is_operator: bool
    namespace: str
    pod: str = ""
    job_uid: str = ""
    job_label: str = ""
    owner: str = ""
    """Name of the batch Job that controls the pod."""

    def __str__(self) -> str:
        return "operator" if self.is_operator else f"pod {self.namespace}/{self.pod}"


class Api(Protocol):
    """What the API server is asked; `KubeApi` is one."""

    def review(self, token: str, audience: str) -> TokenUser | None: ...

    def pod_metadata(self, namespace: str, name: str) -> dict[str, Any] | None: ...


@dataclass(frozen=True)
class _Known:
    caller: Caller | None
    why: KubeAutoMLError | None
    since: float
    until: float
    token_ends: float


class Callers:
    """Callers by their token. Threads may share it.

    Args:
        operators: service accounts that may touch every study, such as system:serviceaccount:kubeautoml-system:kubeautoml-operator.
        count: told "hit", "miss", "stale", "refused" or "unavailable" for every call.
        now: Unix time.
    """

    def __init__(
        self,
        api: Api,
        operators: frozenset[str] = frozenset(),
        audience: str = STUDY_TOKEN_AUDIENCE,
        count: Callable[[str], None] = lambda _: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._api, self._operators, self._audience = api, operators, audience
        self._count, self._now = count, now
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._lock = threading.Lock()
        self._asking = [threading.Lock() for _ in range(_LOCKS)]

    def identify(self, authorization: str) -> Caller:
        """Who shows this header.

        Raises:
            Unauthenticated: no token, or one that is not (any more) good for the study server.
            Forbidden: a good token, of neither an operator nor a pod of a job.
            ClusterError: the API server did not answer, and this caller is not known.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated(
                "the call carries no token; workers need the projected token of audience kubeautoml-study"
            )
        token = token.strip()
        key = hashlib.sha256(token.encode()).digest()
        known = self._remembered(key)
        if known is None:
            # callers of one token wait for one answer; others are hardly ever held up
            with self._asking[key[0] % _LOCKS]:
                known = self._remembered(key) or self._ask(key, token)
        else:
            self._count("hit")
        if known.caller is None:
            assert known.why is not None
            raise known.why
        return known.caller

    def _remembered(self, key: bytes) -> _Known | None:
        with self._lock:
            known = self._known.get(key)
            if known is None or known.until <= self._now():
                return None
            self._known.move_to_end(key)
            return known

    def _ask(self, key: bytes, token: str) -> _Known:
        ends = _ending(token, self._audience, self._now())
        try:
            caller = self._caller(token)
        except (Unauthenticated, Forbidden) as error:
            self._count("refused")
            return self._remember(key, None, error, REFUSED_SECONDS, ends)
        except ClusterError as error:
            return self._unanswered(key, error)
        self._count("miss")
        return self._remember(key, caller, None, KNOWN_SECONDS, ends)

    def _unanswered(self, key: bytes, error: ClusterError) -> _Known:
        """The API server is away: whom it has named lately may go on."""
        with self._lock:
            known = self._known.get(key)
        now = self._now()
        if known is not None and known.caller is not None and now < min(known.since + STALE_SECONDS, known.token_ends):
            self._count("stale")
            return known
        self._count("unavailable")
        log.warning("API server did not say whose token it is", extra={"error": str(error)})
        raise error

    def _remember(
        self, key: bytes, caller: Caller | None, why: KubeAutoMLError | None, seconds: float, token_ends: float
    ) -> _Known:
        now = self._now()
        known = _Known(caller, why, now, min(now + seconds, token_ends), token_ends)
        with self._lock:
            self._known[key] = known
            self._known.move_to_end(key)
            while len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        return known

    def _caller(self, token: str) -> Caller:
        user = self._api.review(token, self._audience)
        if user is None:
            raise Unauthenticated("the token is false, expired, of another audience, or its pod is gone")
        if user.name in self._operators:
            return Caller(is_operator=True, namespace="")
        if not user.name.startswith(_ACCOUNT) or not user.pod_name or not user.pod_uid:
            raise Forbidden("the token is bound to no pod; only the operator may use such a token")
        namespace = user.name.removeprefix(_ACCOUNT).partition(":")[0]
        pod = self._api.pod_metadata(namespace, user.pod_name)
        if pod is None or pod.get("uid") != user.pod_uid:
            raise Unauthenticated("the token's pod is gone")
        labels = pod.get("labels") or {}
        owners = [o for o in pod.get("ownerReferences") or () if o.get("controller") and o.get("kind") == "Job"]
        if not labels.get(LABEL_JOB_UID) or not owners:
            raise Forbidden(f"pod {namespace}/{user.pod_name} belongs to no AutoMLJob")
        return Caller(
            is_operator=False,
            namespace=namespace,
            pod=user.pod_name,
            job_uid=str(labels[LABEL_JOB_UID]),
            job_label=str(labels.get(LABEL_JOB, "")),
            owner=str(owners[0].get("name", "")),
        )


def _ending(token: str, audience: str, now: float) -> float:
    """When a token ends, as it says itself: the API server decides whether it may be believed.

    Raises:
        Unauthenticated: it is no token, has ended, or says that it is for others. So the API server need not be asked.
    """
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        ends, audiences = float(claims["exp"]), claims["aud"]
        is_ours = audience in ([audiences] if isinstance(audiences, str) else list(audiences))
    except (IndexError, ValueError, KeyError, TypeError) as error:
        raise Unauthenticated("the token is not one of a service account with an end and an audience") from error
    if not is_ours:
        raise Unauthenticated(f"the token is not for the audience {audience}")
    if ends <= now:
        raise Unauthenticated("the token has expired")
    return ends
