"""Small typed values that several kinds share: the base model, decimal strings, metav1.Condition's neighbours.

Kubernetes frowns on floats in objects (they do not survive every client unchanged), so fractions are decimal strings.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

DECIMAL_PATTERN = r"^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$"
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?$"
DNS_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
CAMEL_PATTERN = r"^[A-Z][A-Za-z0-9]*$"

DecimalString = Annotated[str, StringConstraints(pattern=DECIMAL_PATTERN, max_length=32)]
"""A number as text, such as "0.95" or "-1.5e-3"."""

Quantity = Annotated[str, StringConstraints(pattern=QUANTITY_PATTERN, max_length=32)]
"""A Kubernetes quantity, such as "500m", "2" or "4Gi"."""

ObjectName = Annotated[str, StringConstraints(pattern=DNS_LABEL_PATTERN, min_length=1, max_length=63)]
CamelName = Annotated[str, StringConstraints(pattern=CAMEL_PATTERN, max_length=64)]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class ApiModel(BaseModel):
    """Base of everything in a manifest: camelCase outside, snake_case inside, no unknown fields, no changes."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    def to_manifest(self) -> dict[str, Any]:
        """The JSON form that the API server stores: camelCase, absent instead of null."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class LocalRef(ApiModel):
    """Names another object: in the same namespace, or cluster-scoped."""

    name: ObjectName
    """Name of the object."""


class Resources(ApiModel):
    """Compute resources of one pod; as in a container's spec."""

    requests: dict[str, Quantity] = Field(default_factory=dict, max_length=16)
    """What the scheduler reserves, such as {cpu: "2", memory: 4Gi}."""
    limits: dict[str, Quantity] = Field(default_factory=dict, max_length=16)
    """What the pod may use at most; accelerators such as nvidia.com/gpu go here."""


_SUFFIXES = {
    **{"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50},
    **{"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "m": 1e-3},
}


def quantity_number(quantity: str) -> float:
    """A quantity as a number: "500m" is 0.5, "2" is 2.0, "1Ki" is 1024.0, "1k" is 1000.0."""
    suffix = next((s for s in _SUFFIXES if quantity.endswith(s)), "")
    return float(quantity.removesuffix(suffix)) * _SUFFIXES.get(suffix, 1)


def cpu_count(quantity: str) -> float:
    """Cores as a number: "500m" is 0.5, "2" is 2.0."""
    return quantity_number(quantity)


def quantity_bytes(quantity: str) -> int:
    """Bytes of a memory quantity: "1Ki" is 1024, "1k" is 1000."""
    return int(quantity_number(quantity))
