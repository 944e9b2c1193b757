"""The Pod Security Standards as a function: which rules of the level *restricted* does a pod break?

Written from the text of the standard (kubernetes.io, "Pod Security Standards": every control of *baseline* and of *restricted*,
Linux pods, as of Kubernetes 1.36), not from our templates, so that it can disagree with them. Stricter than the standard nowhere
but in one place: pods may not say that they are Windows pods, for which the standard allows more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Pod = dict[str, Any]
"""A pod template or a pod: metadata and spec."""

BASELINE_CAPABILITIES = frozenset(
    [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ]
)
RESTRICTED_CAPABILITIES = frozenset({"NET_BIND_SERVICE"})
SAFE_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_wmem",
    }
)
SELINUX_TYPES = frozenset({"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"})
VOLUMES = frozenset(
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"],
)
SECCOMP = frozenset({"RuntimeDefault", "Localhost"})
APPARMOR_ANNOTATION = "container.apparmor.security.beta.kubernetes.io/"


def violations(pod: Pod) -> list[str]:
    """Broken rules of *restricted*, each as "<control>: <where>"; empty for a pod that passes."""
    return [*_baseline(pod), *_restricted(pod)]


def containers_of(spec: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(where, container) of all three kinds of containers."""
    kinds = ("containers", "initContainers", "ephemeralContainers")
    return [(f"{kind}[{i}]", c) for kind in kinds for i, c in enumerate(spec.get(kind) or [])]


def _baseline(pod: Pod) -> Iterator[str]:
    spec = pod["spec"]
    contexts = list(_contexts(spec))
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"host namespaces: spec.{name}"
    if (spec.get("os") or {}).get("name", "linux") != "linux":
        yield "linux only: spec.os"
    for name in pod.get("metadata", {}).get("annotations") or {}:
        value = pod["metadata"]["annotations"][name]
        if name.startswith(APPARMOR_ANNOTATION) and value != "runtime/default" and not value.startswith("localhost/"):
            yield f"AppArmor: annotation {name}"
    for volume in spec.get("volumes") or []:
        if "hostPath" in volume:
            yield f"hostPath volumes: {volume['name']}"
    for sysctl in (spec.get("securityContext") or {}).get("sysctls") or []:
        if sysctl["name"] not in SAFE_SYSCTLS:
            yield f"sysctls: {sysctl['name']}"
    for where, context in contexts:
        yield from _baseline_context(where, context)
    for where, container in containers_of(spec):
        context = container.get("securityContext") or {}
        if context.get("privileged"):
            yield f"privileged containers: {where}"
        if not _added(context) <= BASELINE_CAPABILITIES:
            yield f"capabilities: {where} adds {sorted(_added(context) - BASELINE_CAPABILITIES)}"
        if context.get("procMount", "Default") != "Default":
            yield f"/proc mount type: {where}"
        if any(port.get("hostPort") for port in container.get("ports") or []):
            yield f"host ports: {where}"
        yield from _hosts(where, container)


def _baseline_context(where: str, context: dict[str, Any]) -> Iterator[str]:
    """What holds alike for the security contexts of a pod and of its containers."""
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield f"HostProcess: {where}"
    if (context.get("appArmorProfile") or {}).get("type", "RuntimeDefault") not in ("RuntimeDefault", "Localhost"):
        yield f"AppArmor: {where}"
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("type", "") not in SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield f"SELinux: {where}"
    if (context.get("seccompProfile") or {}).get("type", "RuntimeDefault") not in SECCOMP:
        yield f"seccomp: {where}"


def _hosts(where: str, container: dict[str, Any]) -> Iterator[str]:
    """Probes and lifecycle hooks that name a host would let the kubelet call anything (a control since 1.34)."""
    actions = {name: container.get(name) or {} for name in ("livenessProbe", "readinessProbe", "startupProbe")}
    hooks = container.get("lifecycle") or {}
    actions |= {name: hooks.get(name) or {} for name in ("postStart", "preStop")}
    for name, action in actions.items():
        if any((action.get(kind) or {}).get("host") for kind in ("httpGet", "tcpSocket")):
            yield f"host probes and hooks: {where}.{name}"


def _restricted(pod: Pod) -> Iterator[str]:
    spec = pod["spec"]
    own = spec.get("securityContext") or {}
    for volume in spec.get("volumes") or []:
        kinds = {k for k in volume if k != "name"} or {"emptyDir"}
        if not kinds <= VOLUMES:
            yield f"volume types: {volume['name']} is {sorted(kinds)}"
    if own.get("runAsUser") == 0:
        yield "running as non-root user: spec.securityContext"
    for where, container in containers_of(spec):
        context = container.get("securityContext") or {}
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"privilege escalation: {where}"
        if context.get("runAsNonRoot", own.get("runAsNonRoot")) is not True:
            yield f"running as non-root: {where}"
        if context.get("runAsUser") == 0:
            yield f"running as non-root user: {where}"
        if not (context.get("seccompProfile") or own.get("seccompProfile") or {}).get("type"):
            yield f"seccomp: {where} has no profile"
        if "ALL" not in ((context.get("capabilities") or {}).get("drop") or []):
            yield f"capabilities: {where} does not drop ALL"
        if not _added(context) <= RESTRICTED_CAPABILITIES:
            yield f"capabilities: {where} adds {sorted(_added(context) - RESTRICTED_CAPABILITIES)}"
    if own.get("runAsNonRoot") is False:
        yield "running as non-root: spec.securityContext"


def _contexts(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "spec.securityContext", spec.get("securityContext") or {}
    for where, container in containers_of(spec):
        yield where, container.get("securityContext") or {}


def _added(context: dict[str, Any]) -> set[str]:
    return set((context.get("capabilities") or {}).get("add") or [])
