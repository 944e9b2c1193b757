"""NetworkPolicies around a job's pods.

Workers and finalizers serve nobody, so nothing may connect to them, always. Servers are reached on their one port, by
everybody or by those that the profile names. What pods connect to is open unless the profile restricts it: where object
storage is cannot be known here, and a policy that is wrong about it would stop every job of a cluster.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from kubeautoml.api.job import AutoMLJob
from kubeautoml.api.names import (
    LABEL_COMPONENT,
    LABEL_JOB_UID,
    SERVER_PORT,
    Component,
    labels,
    network_policy_name,
    server_name,
)
from kubeautoml.api.objects import Manifest
from kubeautoml.api.profile import AutoMLProfileSpec, NetworkPeer
from kubeautoml.plan.base import Settings
from kubeautoml.plan.pods import owner

DNS_PORT = 53
_DEFAULT_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "grpc": 13000, "grpcs": 13000}
"""By scheme, for URLs without a port; a study server listens at 13000."""


def training_policy(job: AutoMLJob, profile: AutoMLProfileSpec, settings: Settings) -> tuple[Manifest, ...]:
    """Around workers and finalizer; nothing when the profile wants no policies."""
    meta = job.metadata
    components = [Component.WORKER.value, Component.FINALIZER.value]
    study = [] if profile.study.secret_name else [_port_of(profile.study.url or settings.study_url)]
    return _policy(
        profile,
        name=network_policy_name(meta.name, meta.uid),
        job=job,
        component=Component.WORKER,
        selector={
            "matchLabels": {LABEL_JOB_UID: meta.uid},
            "matchExpressions": [{"key": LABEL_COMPONENT, "operator": "In", "values": components}],
        },
        ingress=[],
        study_ports=[port for port in study if port is not None],
    )


def server_policy(job: AutoMLJob, profile: AutoMLProfileSpec) -> tuple[Manifest, ...]:
    """Around the servers; nothing when the profile wants no policies."""
    meta = job.metadata
    peers = [_peer(p) for p in profile.network.server_ingress]
    ingress = {"ports": _ports([SERVER_PORT]), **({"from": peers} if peers else {})}
    return _policy(
        profile,
        name=server_name(meta.name),
        job=job,
        component=Component.SERVER,
        selector={"matchLabels": {LABEL_JOB_UID: meta.uid, LABEL_COMPONENT: Component.SERVER.value}},
        ingress=[ingress],
        study_ports=[],
    )


def _policy(
    profile: AutoMLProfileSpec,
    *,
    name: str,
    job: AutoMLJob,
    component: Component,
    selector: dict[str, Any],
    ingress: list[dict[str, Any]],
    study_ports: list[int],
) -> tuple[Manifest, ...]:
    if not profile.network.policies:
        return ()
    egress = {"egress": _egress(profile, study_ports)} if profile.network.restrict_egress else {}
    policy: Manifest = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": name,
            "namespace": job.metadata.namespace,
            "labels": labels(job.metadata.name, job.metadata.uid, component),
            "ownerReferences": owner(job),
        },
        "spec": {
            "podSelector": selector,
            "policyTypes": ["Ingress", *(["Egress"] if egress else [])],
            "ingress": ingress,
            **egress,
        },
    }
    return (policy,)


def _egress(profile: AutoMLProfileSpec, study_ports: list[int]) -> list[dict[str, Any]]:
    dns = {"ports": [{"protocol": p, "port": DNS_PORT} for p in ("UDP", "TCP")]}
    study = [{"ports": _ports(study_ports)}] if study_ports else []
    storage_port = _port_of(profile.object_storage.endpoint_url or "https://")
    given = [_rule(r.to, r.ports) for r in profile.network.egress]
    return [dns, *study, *(given or [{"ports": _ports([storage_port or 443])}])]


def _rule(to: list[NetworkPeer], ports: list[int]) -> dict[str, Any]:
    return {**({"to": [_peer(p) for p in to]} if to else {}), **({"ports": _ports(ports)} if ports else {})}


def _peer(peer: NetworkPeer) -> dict[str, Any]:
    if peer.cidr is not None:
        return {"ipBlock": {"cidr": peer.cidr}}
    chosen = {"namespaceSelector": peer.namespace_labels, "podSelector": peer.pod_labels}
    return {name: {"matchLabels": wanted} for name, wanted in chosen.items() if wanted}


def _ports(ports: list[int]) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def _port_of(url: str) -> int | None:
    """The port of a URL; None for what is no address, such as a file."""
    scheme = url.partition("://")[0].partition("+")[0]
    try:
        port = urlsplit(url).port
    except ValueError:  # brackets without an address in them, a port that is no number
        port = None
    return port or _DEFAULT_PORTS.get(scheme)
