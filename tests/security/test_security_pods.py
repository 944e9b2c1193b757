"""Every pod that the planner can make passes the level *restricted*, has no API token, and holds no credential in its environment.

The check itself is tested first: each control of the standard, broken once, is found.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from factories import SETTINGS, make_manifest
from fuzz.fuzz_specs import RICH, good_specs, profiles
from kubeautoml.api.errors import ManifestError
from kubeautoml.api.form import problems
from kubeautoml.api.names import STUDY_TOKEN_AUDIENCE
from kubeautoml.api.objects import Manifest
from kubeautoml.api.profile import AutoMLProfile
from kubeautoml.plan.preview import preview
from security.pod_security import containers_of, violations

GOOD: dict[str, Any] = {
    "metadata": {},
    "spec": {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "c",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    },
}

CONTAINER = ("spec", "containers", 0)
BROKEN: dict[str, tuple[tuple[str | int, ...], Any]] = {
    "HostProcess": (("spec", "securityContext", "windowsOptions"), {"hostProcess": True}),
    "host namespaces: spec.hostNetwork": (("spec", "hostNetwork"), True),
    "host namespaces: spec.hostPID": (("spec", "hostPID"), True),
    "host namespaces: spec.hostIPC": (("spec", "hostIPC"), True),
    "privileged containers": ((*CONTAINER, "securityContext", "privileged"), True),
    "capabilities: containers[0] adds ['SYS_ADMIN']": (
        (*CONTAINER, "securityContext", "capabilities"),
        {"drop": ["ALL"], "add": ["SYS_ADMIN"]},
    ),
    "capabilities: containers[0] adds ['CHOWN']": (
        (*CONTAINER, "securityContext", "capabilities"),
        {"drop": ["ALL"], "add": ["CHOWN"]},
    ),
    "capabilities: containers[0] does not drop ALL": (
        (*CONTAINER, "securityContext", "capabilities"),
        {"drop": ["NET_RAW"]},
    ),
    "hostPath volumes": (("spec", "volumes"), [{"name": "v", "hostPath": {"path": "/"}}]),
    "host ports": ((*CONTAINER, "ports"), [{"containerPort": 80, "hostPort": 80}]),
    "host probes and hooks: containers[0].livenessProbe": (
        (*CONTAINER, "livenessProbe"),
        {"httpGet": {"host": "169.254.169.254", "port": 80}},
    ),
    "host probes and hooks: containers[0].preStop": (
        (*CONTAINER, "lifecycle"),
        {"preStop": {"tcpSocket": {"host": "10.0.0.1", "port": 80}}},
    ),
    "AppArmor: spec.securityContext": (("spec", "securityContext", "appArmorProfile"), {"type": "Unconfined"}),
    "AppArmor: annotation": (
        ("metadata", "annotations"),
        {"container.apparmor.security.beta.kubernetes.io/c": "unconfined"},
    ),
    "SELinux: containers[0]": ((*CONTAINER, "securityContext", "seLinuxOptions"), {"type": "spc_t"}),
    "SELinux: spec.securityContext": (("spec", "securityContext", "seLinuxOptions"), {"user": "root"}),
    "/proc mount type": ((*CONTAINER, "securityContext", "procMount"), "Unmasked"),
    "seccomp: spec.securityContext": (("spec", "securityContext", "seccompProfile"), {"type": "Unconfined"}),
    "seccomp: containers[0] has no profile": (("spec", "securityContext", "seccompProfile"), None),
    "seccomp: containers[0]": ((*CONTAINER, "securityContext", "seccompProfile"), {"type": "Unconfined"}),
    "sysctls": (("spec", "securityContext", "sysctls"), [{"name": "kernel.msgmax", "value": "1"}]),
    "volume types": (("spec", "volumes"), [{"name": "v", "nfs": {"server": "s", "path": "/"}}]),
    "privilege escalation": ((*CONTAINER, "securityContext", "allowPrivilegeEscalation"), None),
    "running as non-root: containers[0]": ((*CONTAINER, "securityContext", "runAsNonRoot"), False),
    "running as non-root: spec.securityContext": (("spec", "securityContext", "runAsNonRoot"), False),
    "running as non-root user: containers[0]": ((*CONTAINER, "securityContext", "runAsUser"), 0),
    "running as non-root user: spec.securityContext": (("spec", "securityContext", "runAsUser"), 0),
    "privilege escalation: initContainers[0]": (("spec", "initContainers"), [{"name": "i"}]),
    "privilege escalation: ephemeralContainers[0]": (("spec", "ephemeralContainers"), [{"name": "e"}]),
    "linux only": (("spec", "os"), {"name": "windows"}),
}


def broken(place: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    pod = deepcopy(GOOD)
    holder: Any = pod
    for part in place[:-1]:
        holder = holder[part]
    holder[place[-1]] = value
    return pod


def test_a_restricted_pod_passes() -> None:
    assert violations(GOOD) == []


@pytest.mark.parametrize("control", BROKEN)
def test_each_control_is_found_when_it_is_broken(control: str) -> None:
    """Else a pod that passes says nothing."""
    assert any(v.startswith(control) for v in violations(broken(*BROKEN[control])))


def pod_templates(spec: dict[str, Any], profile: AutoMLProfile | None) -> list[dict[str, Any]]:
    """Of all that the job would bring about; none when it is refused."""
    try:
        objects: list[Manifest] = preview(make_manifest(**spec), profile, SETTINGS)
    except ManifestError:
        return []
    return [m["spec"]["template"] for m in objects if m["kind"] in ("Job", "Deployment")]


def profile_of(spec: dict[str, Any]) -> AutoMLProfile | None:
    metadata = {"name": "default"}
    manifest = {"apiVersion": "kubeautoml.dev/v1alpha1", "kind": "AutoMLProfile", "metadata": metadata, "spec": spec}
    return None if problems(manifest, AutoMLProfile) else AutoMLProfile.model_validate(manifest)


def test_the_specs_below_make_every_kind_of_pod() -> None:
    """Worker, finalizer and server; a gate would keep the server away."""
    names = [t["spec"]["containers"][0]["name"] for t in pod_templates({**RICH, "serving": {}}, None)]
    assert names == ["worker", "finalize", "server"]


@settings(max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(good_specs()), profiles)
def test_every_pod_is_restricted_whatever_the_profile_says(spec: dict[str, Any], given_profile: dict[str, Any]) -> None:
    """Also with a read-only root, no API token but the study's, no service links, and no secret in its environment but the
    study's URL."""
    # what a profile limits would only make pods fewer
    unlimited = {k: v for k, v in given_profile.items() if k not in ("limits", "locations")}
    for template in pod_templates({**spec, "serving": {"replicas": 2}}, profile_of(unlimited)):
        pod = template["spec"]
        assert violations(template) == []
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert tokens_in(pod) in ([], [STUDY_TOKEN_AUDIENCE])
        for _, container in containers_of(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert "envFrom" not in container
            from_secrets = [e["name"] for e in container["env"] if "secretKeyRef" in e.get("valueFrom", {})]
            assert from_secrets in ([], ["KUBEAUTOML_STUDY_URL"])


def tokens_in(pod: dict[str, Any]) -> list[str]:
    """Audiences of the tokens that are mounted; the API server's own would be an empty one."""
    sources = [s for v in pod["volumes"] for s in v.get("projected", {}).get("sources", [])]
    return [s["serviceAccountToken"].get("audience", "") for s in sources if "serviceAccountToken" in s]
