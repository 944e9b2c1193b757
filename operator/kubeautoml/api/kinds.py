"""Group, version, and what every one of the three kinds shares."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from kubeautoml.api.values import ApiModel

GROUP = "kubeautoml.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

ApiVersion = Literal["kubeautoml.dev/v1alpha1"]


class ObjectMeta(BaseModel):
    """The part of metav1.ObjectMeta that we read; the rest is kept as it came."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow", frozen=True)

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    creation_timestamp: str | None = None

    def to_manifest(self) -> dict[str, Any]:
        """camelCase, without the empty fields."""
        dumped = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {k: v for k, v in dumped.items() if v not in ("", 0, {}, [])}


class ApiObject(ApiModel):
    """An object as the API server keeps it; each kind says its name, its spec and, where it has one, its status."""

    api_version: ApiVersion = "kubeautoml.dev/v1alpha1"
    kind: str
    metadata: ObjectMeta
    spec: ApiModel

    def to_manifest(self) -> dict[str, Any]:
        """The object without its status."""
        return {
            "apiVersion": self.api_version,
            "kind": self.kind,
            "metadata": self.metadata.to_manifest(),
            "spec": self.spec.to_manifest(),
        }
