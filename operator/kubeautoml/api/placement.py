"""Where pods may run: a typed subset of the pod spec, spelled as Kubernetes spells it.

Typed, so that a mistake is answered when it is made and not by a pod that never starts; a subset, since whatever else a pod
spec can say (volumes, host namespaces, other schedulers) is the platform team's business.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from kubeautoml.api.values import ApiModel

LABEL_VALUE_PATTERN = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
LABEL_KEY_PATTERN = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
CLASS_NAME_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"

LabelKey = Annotated[str, StringConstraints(pattern=LABEL_KEY_PATTERN, max_length=317)]
LabelValue = Annotated[str, StringConstraints(pattern=LABEL_VALUE_PATTERN, max_length=63)]
ClassName = Annotated[str, StringConstraints(pattern=CLASS_NAME_PATTERN, min_length=1, max_length=253)]
Weight = Annotated[int, Field(ge=1, le=100)]


class Toleration(ApiModel):
    """Lets pods run on nodes with a matching taint; as in a pod's spec."""

    key: Annotated[str, StringConstraints(max_length=317)] | None = None
    """Taint key; absent with operator Exists matches every taint."""
    operator: Annotated[str, StringConstraints(pattern="^(Exists|Equal)$")] = "Equal"
    """Exists or Equal; Equal when left out."""
    value: Annotated[str, StringConstraints(max_length=63)] | None = None
    """Taint value, for Equal."""
    effect: Annotated[str, StringConstraints(pattern="^(NoSchedule|PreferNoSchedule|NoExecute)$")] | None = None
    """NoSchedule, PreferNoSchedule or NoExecute; absent matches all."""
    toleration_seconds: Annotated[int, Field(ge=0)] | None = None
    """Seconds a pod stays after a NoExecute taint appears."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.key and self.operator != "Exists":
            raise ValueError("key is required unless operator is Exists")
        if self.operator == "Exists" and self.value:
            raise ValueError("value must be left out when operator is Exists")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("effect must be NoExecute when tolerationSeconds is set")
        return self


class SelectorOperator(StrEnum):
    """How a label is compared."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class NodeSelectorOperator(StrEnum):
    """How a node's label is compared."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"
    GT = "Gt"
    LT = "Lt"


class NodeRequirement(ApiModel):
    """One condition on a node's labels."""

    key: LabelKey
    """Label of the node."""
    operator: NodeSelectorOperator
    """In, NotIn, Exists, DoesNotExist, Gt or Lt."""
    values: list[LabelValue] = Field(default_factory=list, max_length=32)
    """For In and NotIn one or more, for Gt and Lt one whole number, else none."""

    @model_validator(mode="after")
    def _has_fitting_values(self) -> Self:
        _check_values(self.operator.value, self.values)
        return self


class NodeTerm(ApiModel):
    """Conditions that must all hold for a node."""

    match_expressions: list[NodeRequirement] = Field(min_length=1, max_length=8)
    """Conditions on the node's labels."""


class NodeTerms(ApiModel):
    """Alternatives of which one must hold for a node."""

    node_selector_terms: list[NodeTerm] = Field(min_length=1, max_length=8)
    """Alternatives."""


class PreferredNodeTerm(ApiModel):
    """Nodes that are liked."""

    weight: Weight
    """How much, from 1 to 100."""
    preference: NodeTerm
    """Which nodes."""


class NodeAffinity(ApiModel):
    """Nodes that pods need or like."""

    required_during_scheduling_ignored_during_execution: NodeTerms | None = None
    """Nodes on which pods may run."""
    preferred_during_scheduling_ignored_during_execution: list[PreferredNodeTerm] = Field(
        default_factory=list, max_length=8
    )
    """Nodes on which pods run if there is room."""


class LabelRequirement(ApiModel):
    """One condition on a pod's labels."""

    key: LabelKey
    """Label of the pod."""
    operator: SelectorOperator
    """In, NotIn, Exists or DoesNotExist."""
    values: list[LabelValue] = Field(default_factory=list, max_length=32)
    """For In and NotIn one or more, else none."""

    @model_validator(mode="after")
    def _has_fitting_values(self) -> Self:
        _check_values(self.operator.value, self.values)
        return self


class LabelSelector(ApiModel):
    """Selects pods by their labels; all conditions must hold."""

    match_labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=16)
    """Labels with the value they must have."""
    match_expressions: list[LabelRequirement] = Field(default_factory=list, max_length=8)
    """Conditions on labels."""


class PodTerm(ApiModel):
    """Pods beside which ours are, or are not, wanted."""

    topology_key: LabelKey
    """Label of nodes that says what "beside" means, such as kubernetes.io/hostname."""
    label_selector: LabelSelector | None = None
    """Which pods of the namespace; absent means the pods of this job."""


class PreferredPodTerm(ApiModel):
    """The same, if it can be had."""

    weight: Weight
    """How much, from 1 to 100."""
    pod_affinity_term: PodTerm
    """Which pods."""


class PodAntiAffinity(ApiModel):
    """Pods beside which ours must not run, or had better not."""

    required_during_scheduling_ignored_during_execution: list[PodTerm] = Field(default_factory=list, max_length=8)
    """Never beside these."""
    preferred_during_scheduling_ignored_during_execution: list[PreferredPodTerm] = Field(
        default_factory=list, max_length=8
    )
    """Not beside these if it can be avoided."""


class Affinity(ApiModel):
    """Nodes and neighbours that pods need, like or avoid."""

    node_affinity: NodeAffinity | None = None
    """Nodes that pods need or like."""
    pod_anti_affinity: PodAntiAffinity | None = None
    """Pods that are avoided."""


class SpreadConstraint(ApiModel):
    """How evenly pods are spread over zones or nodes."""

    topology_key: LabelKey
    """Label of nodes whose values are evened out, such as topology.kubernetes.io/zone."""
    max_skew: Annotated[int, Field(ge=1, le=1024)] = 1
    """Largest difference between two of them, in pods; 1 when left out."""
    when_unsatisfiable: Annotated[str, StringConstraints(pattern="^(DoNotSchedule|ScheduleAnyway)$")] = "ScheduleAnyway"
    """DoNotSchedule or ScheduleAnyway; ScheduleAnyway when left out."""
    label_selector: LabelSelector | None = None
    """Which pods are counted; absent means the pods of this job."""


class Placement(ApiModel):
    """Where pods may run: a typed subset of the pod spec."""

    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=16)
    """Labels a node must have."""
    tolerations: list[Toleration] = Field(default_factory=list, max_length=16)
    """Taints that are tolerated."""
    affinity: Affinity | None = None
    """Nodes and neighbours that pods need, like or avoid."""
    topology_spread_constraints: list[SpreadConstraint] = Field(default_factory=list, max_length=4)
    """How evenly pods are spread."""
    priority_class_name: ClassName | None = None
    """PriorityClass of the pods."""
    runtime_class_name: ClassName | None = None
    """RuntimeClass of the pods."""

    def is_empty(self) -> bool:
        """Whether it says nothing."""
        return self == Placement()


def _check_values(operator: str, values: list[str]) -> None:
    if operator in ("In", "NotIn") and not values:
        raise ValueError(f"values must have one or more entries when operator is {operator}")
    if operator in ("Exists", "DoesNotExist") and values:
        raise ValueError(f"values must be left out when operator is {operator}")
    if operator in ("Gt", "Lt") and not (len(values) == 1 and values[0].isdecimal()):
        raise ValueError(f"values must be one whole number in quotes when operator is {operator}")
