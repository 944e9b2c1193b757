"""A pod's volumes as folders of this machine, and its paths and environment seen from a plain process."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from real.rest import Json, Rest

_TEMPORARY = ("/tmp", "/var/tmp")


class NotYet(Exception):
    """The pod cannot start now: `reason` as a kubelet says it, and what is missing."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Source:
    """What volumes and environments are made from: the API, as the node sees it, and the pod."""

    api: Rest
    pod: Json
    host: str
    claims: Path
    """Where the node keeps what PersistentVolumeClaims stand for."""

    @property
    def namespace(self) -> str:
        return str(self.pod["metadata"]["namespace"])

    def secret(self, name: str, *, optional: bool, reason: str) -> dict[str, bytes]:
        """A secret's data.

        Raises:
            NotYet: there is none, and the pod insists on it.
        """
        found = self.api.find(f"/api/v1/namespaces/{self.namespace}/secrets/{name}")
        if found is None and not optional:
            raise NotYet(reason, f'secret "{name}" not found')
        return {key: base64.b64decode(value) for key, value in ((found or {}).get("data") or {}).items()}

    def config_map(self, name: str, *, optional: bool, reason: str) -> dict[str, bytes]:
        """A config map's data, binary data included; NotYet as for a secret."""
        found = self.api.find(f"/api/v1/namespaces/{self.namespace}/configmaps/{name}")
        if found is None and not optional:
            raise NotYet(reason, f'configmap "{name}" not found')
        found = found or {}
        binary = {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
        return binary | {key: value.encode() for key, value in (found.get("data") or {}).items()}

    def token(self, audience: str | None, seconds: int) -> bytes:
        """A token of the pod's service account that is bound to this pod."""
        meta = self.pod["metadata"]
        bound = {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "uid": meta["uid"]}
        request: Json = {"expirationSeconds": seconds, "boundObjectRef": bound}
        if audience:
            request["audiences"] = [audience]
        account = self.pod["spec"].get("serviceAccountName") or "default"
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token"
        return str(self.api.post(path, {"spec": request})["status"]["token"]).encode()

    def claim(self, name: str) -> Path:
        """The folder that a claim stands for. The node is its provisioner, too: the claim becomes bound.

        Raises:
            NotYet: there is no such claim.
        """
        path = f"/api/v1/namespaces/{self.namespace}/persistentvolumeclaims/{name}"
        found = self.api.find(path)
        if found is None:
            raise NotYet("FailedScheduling", f'persistentvolumeclaim "{name}" not found')
        folder = self.claims / str(found["metadata"]["uid"])
        folder.mkdir(parents=True, exist_ok=True)
        if found.get("status", {}).get("phase") != "Bound":
            self.api.patch(f"{path}/status", {"status": {"phase": "Bound"}})
        return folder

    def field(self, path: str) -> str:
        """The downward API. status.podIP is the address on which the process can really listen."""
        meta, spec = self.pod["metadata"], self.pod["spec"]
        known = {
            "metadata.name": meta["name"],
            "metadata.namespace": meta["namespace"],
            "metadata.uid": meta["uid"],
            "spec.nodeName": spec.get("nodeName", ""),
            "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
            "status.podIP": self.host,
            "status.hostIP": "127.0.0.1",
        }
        if path in known:
            return str(known[path])
        if path in ("metadata.labels", "metadata.annotations"):
            return "\n".join(f'{k}="{v}"' for k, v in sorted((meta.get(path.split(".")[1]) or {}).items()))
        found = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
        if found is None:
            raise NotYet("CreateContainerConfigError", f"unsupported fieldPath {path}")
        return str((meta.get(found[1]) or {}).get(found[2], ""))


def make_volumes(source: Source, folder: Path) -> dict[str, Path]:
    """Every volume of the pod, by name.

    Raises:
        NotYet: something that a volume needs is missing.
    """
    return {volume["name"]: _make_volume(source, volume, folder / volume["name"]) for volume in _volumes(source)}


def _volumes(source: Source) -> list[Json]:
    return source.pod["spec"].get("volumes") or []


def _make_volume(source: Source, volume: Json, folder: Path) -> Path:
    if "hostPath" in volume:
        return Path(volume["hostPath"]["path"])
    if "persistentVolumeClaim" in volume:
        return source.claim(volume["persistentVolumeClaim"]["claimName"])
    folder.mkdir(parents=True, exist_ok=True)
    if "emptyDir" in volume:
        return folder
    if "projected" in volume:
        for part in volume["projected"].get("sources") or []:
            _write(folder, _files(source, part), volume["projected"].get("defaultMode", 0o644))
        return folder
    kind = next((k for k in ("secret", "configMap", "downwardAPI") if k in volume), None)
    if kind is None:
        kinds = ", ".join(k for k in volume if k != "name")
        raise NotYet(
            "ContainerCreating", f'volume "{volume["name"]}" is of a kind this test node does not have: {kinds}'
        )
    _write(folder, _files(source, volume), volume[kind].get("defaultMode", 0o644))
    return folder


def _files(source: Source, part: Json) -> dict[str, bytes]:
    """What one source of a volume puts into its folder, by path."""
    if "serviceAccountToken" in part:
        wanted = part["serviceAccountToken"]
        token = source.token(wanted.get("audience"), wanted.get("expirationSeconds", 3600))
        return {wanted["path"]: token}
    if "downwardAPI" in part:
        items = part["downwardAPI"].get("items") or []
        return {item["path"]: source.field(item["fieldRef"]["fieldPath"]).encode() for item in items}
    if "secret" in part:
        wanted, read = part["secret"], source.secret
    elif "configMap" in part:
        wanted, read = part["configMap"], source.config_map
    else:
        raise NotYet("ContainerCreating", f"a projected source of a kind this test node does not have: {part}")
    name = wanted.get("secretName") or wanted["name"]
    optional = bool(wanted.get("optional"))
    data = read(name, optional=optional, reason="ContainerCreating")
    items = wanted.get("items")
    if not items:
        return data
    missing = [item["key"] for item in items if item["key"] not in data]
    if missing and not optional:
        raise NotYet("ContainerCreating", f"references non-existent secret or config key: {', '.join(missing)}")
    return {item["path"]: data[item["key"]] for item in items if item["key"] in data}


def _write(folder: Path, files: Mapping[str, bytes], mode: int) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        path.chmod(mode)


@dataclass(frozen=True)
class Paths:
    """Where a container's mount paths lie on this machine."""

    mounts: dict[str, Path]

    @classmethod
    def of(cls, container: Json, volumes: dict[str, Path]) -> Paths:
        """From a container's volumeMounts."""
        mounts = {}
        for mount in container.get("volumeMounts") or []:
            path = volumes[mount["name"]] / mount.get("subPath", "")
            if mount.get("subPath") and not path.exists():
                path.mkdir(parents=True)
            mounts[mount["mountPath"].rstrip("/")] = path
        return cls(mounts)

    def rewrite(self, text: str) -> str:
        """Replace mount paths that stand as whole path components, also behind file://.

        Below /tmp only the folder itself is replaced: a longer path there may be one of this machine's own.
        """
        for mount, path in sorted(self.mounts.items(), key=lambda item: -len(item[0])):
            end = r"(?=$|[\s:,;\"'\]})])" if mount in _TEMPORARY else r"(?=$|[/\s:,;\"'\]})])"
            text = re.sub(rf"(?:(?<=file://)|(?<![\w/.-])){re.escape(mount)}{end}", lambda _, p=path: str(p), text)
        return text

    @property
    def temporary(self) -> Path | None:
        """What is mounted at /tmp."""
        return self.mounts.get("/tmp")


def environment(source: Source, container: Json) -> dict[str, str]:
    """envFrom and env, with $(NAME) expanded, as the container would see them.

    Raises:
        NotYet: a secret, a config map or a key of one is missing.
    """
    env: dict[str, str] = {}
    for part in container.get("envFrom") or []:
        ref, read = (
            (part["secretRef"], source.secret) if "secretRef" in part else (part["configMapRef"], source.config_map)
        )
        data = read(ref["name"], optional=bool(ref.get("optional")), reason="CreateContainerConfigError")
        env |= {part.get("prefix", "") + key: value.decode() for key, value in data.items()}
    for variable in container.get("env") or []:
        value = _value(source, container, variable)
        if value is not None:
            env[variable["name"]] = expand(value, env)
    return env


def _value(source: Source, container: Json, variable: Json) -> str | None:
    origin: dict[str, Any] = variable.get("valueFrom") or {}
    if "fieldRef" in origin:
        return source.field(origin["fieldRef"]["fieldPath"])
    if "resourceFieldRef" in origin:
        return _resource(container, origin["resourceFieldRef"])
    for kind, read in (("secretKeyRef", source.secret), ("configMapKeyRef", source.config_map)):
        if kind in origin:
            ref, optional = origin[kind], bool(origin[kind].get("optional"))
            data = read(ref["name"], optional=optional, reason="CreateContainerConfigError")
            if ref["key"] not in data and not optional:
                message = f"couldn't find key {ref['key']} in {kind} {source.namespace}/{ref['name']}"
                raise NotYet("CreateContainerConfigError", message)
            return data[ref["key"]].decode() if ref["key"] in data else None
    return str(variable.get("value", ""))


def _resource(container: Json, ref: Json) -> str:
    """A limit or request, as a whole number of its divisor (1 for cores and bytes)."""
    side, name = ref["resource"].split(".", 1)
    quantity = ((container.get("resources") or {}).get(side) or {}).get(name, "0")
    divisor = _number(ref.get("divisor") or "1") or 1.0
    return str(-int(-_number(quantity) // divisor))


def _number(quantity: str) -> float:
    units = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(quantity))
    return float(found[1]) * units.get(found[2], 1) if found else 0.0


def memory_limit(container: Json) -> float | None:
    """Bytes, or None."""
    limit = ((container.get("resources") or {}).get("limits") or {}).get("memory")
    return _number(limit) if limit else None


def expand(text: str, env: Mapping[str, str]) -> str:
    """$(NAME) as Kubernetes expands it: unknown names stay, $$(NAME) is an escape."""

    def one(found: re.Match[str]) -> str:
        if found[0].startswith("$$"):
            return found[0][1:]
        return env.get(found[1], found[0])

    return re.sub(r"\$?\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)", one, text)


def remove(folder: Path) -> None:
    """Volumes hold credentials: they go with the pod."""
    shutil.rmtree(folder, ignore_errors=True)
