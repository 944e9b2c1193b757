"""The operator's settings, read once from its environment."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from kubeautoml.api.errors import UsageError
from kubeautoml.api.profile import AutoMLProfile
from kubeautoml.api.secrets import holds_credentials, masked
from kubeautoml.controller.queue import TIMED_PER_SECOND
from kubeautoml.plan.base import Settings

CONCURRENCY = 4
"""Passes at the same time. Measured with a thousand new jobs: so many reach the client's limit of writes, and with twice as
many each pass only waits twice as long for its turn."""


class OperatorEnv(StrEnum):
    """Environment of the operator's own container."""

    STUDY_URL = "KUBEAUTOML_STUDY_URL"
    """Study URL as pods reach it; required."""
    OPERATOR_STUDY_URL = "KUBEAUTOML_OPERATOR_STUDY_URL"
    """The same studies as the operator reaches them, when that is another address."""
    STUDY_TOKEN_FILE = "KUBEAUTOML_STUDY_TOKEN_FILE"
    """File with the operator's own token for the study server."""
    STUDY_CA_FILE = "KUBEAUTOML_STUDY_CA_FILE"
    """Authority of the study server, PEM. Pods carry it with them, unless they find it elsewhere (see the next one)."""
    STUDY_CA_CONFIG_MAP = "KUBEAUTOML_STUDY_CA_CONFIG_MAP"
    """ConfigMap, in the jobs' namespaces, whose key ca.crt holds the authority of the study server, for pods: something
    copies it there and keeps it up to date."""
    TRAINER_IMAGE = "KUBEAUTOML_TRAINER_IMAGE"
    """Image of workers and finalizers, unless the profile names one; default: kubeautoml-trainer of the same version."""
    SERVER_IMAGE = "KUBEAUTOML_SERVER_IMAGE"
    """Image of model servers, unless the profile names one; default: kubeautoml-server of the same version."""
    NAMESPACES = "KUBEAUTOML_NAMESPACES"
    """Namespaces to work in, separated by commas; empty for all."""
    CONCURRENCY = "KUBEAUTOML_CONCURRENCY"
    """Jobs reconciled at the same time; default: 4."""
    RESYNC_SECONDS = "KUBEAUTOML_RESYNC_SECONDS"
    """Longest time between two looks at a job that is running; default: 30."""
    TIMED_PASSES_PER_SECOND = "KUBEAUTOML_TIMED_PASSES_PER_SECOND"
    """Passes a second that no event asked for, over all jobs; default: 40."""
    NAMESPACE = "KUBEAUTOML_NAMESPACE"
    """Namespace of the operator itself, where its Lease is; default: that of its service account or kubeconfig."""
    POD_NAME = "KUBEAUTOML_POD_NAME"
    """Name of this pod, for the Lease; default: the host's name, which is the pod's."""
    LOG_FORMAT = "KUBEAUTOML_LOG_FORMAT"
    """json or text; default: json."""
    METRICS_PORT = "KUBEAUTOML_METRICS_PORT"
    """Port of /metrics; default: 8081."""
    HEALTH_PORT = "KUBEAUTOML_HEALTH_PORT"
    """Port of /healthz and /readyz; default: 8082."""


@dataclass(frozen=True)
class OperatorSettings:
    """Everything the operator is told from outside."""

    plan: Settings
    study_url: str | None = None
    """Study URL as the operator reaches it; None when it is the pods'."""
    study_token_file: Path | None = None
    study_ca_file: Path | None = None
    namespaces: tuple[str, ...] = ()
    """Empty for all."""
    concurrency: int = CONCURRENCY
    timed_passes_per_second: float = TIMED_PER_SECOND
    elects_leader: bool = True
    """False where there is only one operator, such as on a laptop."""
    namespace: str | None = None
    """Where the Lease is; None: where the client says that we are."""
    pod_name: str = ""
    metrics_port: int = 8081
    health_port: int = 8082

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> OperatorSettings:
        """Read the environment.

        Raises:
            UsageError: a variable is missing, no number or names a file that cannot be read; the message names it.
        """
        url = env.get(OperatorEnv.STUDY_URL, "")
        if not url:
            raise UsageError(
                f"environment variable {OperatorEnv.STUDY_URL.value} must hold the study URL as pods reach it, such as "
                " grpc://kubeautoml-study:13000 or postgresql://..."
            )
        if holds_credentials(url, may_name_user=True):
            raise UsageError(
                f"environment variable {OperatorEnv.STUDY_URL.value} must hold no password, since it is written into pods, got "
                f"{masked(url)!r}; give the operator the whole URL in {OperatorEnv.OPERATOR_STUDY_URL.value}, and pods theirs "
                "by a Secret that the profile names in spec.study.secretName"
            )
        defaults = Settings(study_url=url)
        plan = Settings(
            study_url=url,
            study_ca_config_map=env.get(OperatorEnv.STUDY_CA_CONFIG_MAP) or None,
            study_ca=_study_ca(env),
            trainer_image=env.get(OperatorEnv.TRAINER_IMAGE) or defaults.trainer_image,
            server_image=env.get(OperatorEnv.SERVER_IMAGE) or defaults.server_image,
            resync_seconds=_number(env, OperatorEnv.RESYNC_SECONDS, defaults.resync_seconds, 1),
        )
        return cls(
            plan=plan,
            study_url=env.get(OperatorEnv.OPERATOR_STUDY_URL) or None,
            study_token_file=_path(env, OperatorEnv.STUDY_TOKEN_FILE),
            study_ca_file=_path(env, OperatorEnv.STUDY_CA_FILE),
            namespaces=tuple(n.strip() for n in env.get(OperatorEnv.NAMESPACES, "").split(",") if n.strip()),
            concurrency=int(_number(env, OperatorEnv.CONCURRENCY, CONCURRENCY, 1)),
            timed_passes_per_second=_number(env, OperatorEnv.TIMED_PASSES_PER_SECOND, TIMED_PER_SECOND, 0.1),
            namespace=env.get(OperatorEnv.NAMESPACE) or None,
            pod_name=env.get(OperatorEnv.POD_NAME) or socket.gethostname(),
            metrics_port=int(_number(env, OperatorEnv.METRICS_PORT, 8081, 0)),
            health_port=int(_number(env, OperatorEnv.HEALTH_PORT, 8082, 0)),
        )

    def with_present_ca(self) -> OperatorSettings:
        """With the authority that pods carry read again: cert-manager renews it while the operator runs. One that cannot be
        read for a moment stays what it was."""
        if self.plan.study_ca is None or self.study_ca_file is None:
            return self
        try:
            present = self.study_ca_file.read_text(encoding="ascii")
        except (OSError, ValueError):
            return self
        return self if present == self.plan.study_ca else replace(self, plan=replace(self.plan, study_ca=present))

    def study_url_for(self, profile: AutoMLProfile | None) -> str:
        """Where the operator finds the study of a job with that profile."""
        own = profile.spec.study.url if profile else None
        return own or self.study_url or self.plan.study_url


def _number(env: Mapping[str, str], name: OperatorEnv, default: float, least: float) -> float:
    text = env.get(name, "")
    try:
        number = float(text) if text else default
    except ValueError:
        number = least - 1
    if not number >= least:
        raise UsageError(f"environment variable {name.value} must be a number of at least {least:g}, got {text!r}")
    return number


def _path(env: Mapping[str, str], name: OperatorEnv) -> Path | None:
    return Path(env[name]) if env.get(name) else None


def _study_ca(env: Mapping[str, str]) -> str | None:
    """What pods carry: the operator's own authority, unless it reaches the studies at another address than they do."""
    path = _path(env, OperatorEnv.STUDY_CA_FILE)
    if path is None or env.get(OperatorEnv.OPERATOR_STUDY_URL) or env.get(OperatorEnv.STUDY_CA_CONFIG_MAP):
        return None
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no PEM"
        raise UsageError(
            f"environment variable {OperatorEnv.STUDY_CA_FILE.value} must name a PEM file with the study server's authority, "
            f"and {path} cannot be read: {why}"
        ) from error
