"""Where an API server keeps each kind that we touch."""

from __future__ import annotations

from dataclasses import dataclass

from kubeautoml.api.errors import ClusterError
from kubeautoml.api.kinds import API_VERSION


@dataclass(frozen=True)
class Resource:
    """Where the API server keeps a kind."""

    api_version: str
    plural: str
    is_namespaced: bool = True

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """URL path of a collection, an object, or a part of one."""
        prefix = "/apis" if "/" in self.api_version else "/api"
        within = ("namespaces", namespace) if self.is_namespaced and namespace else ()
        return "/".join(part for part in (prefix, self.api_version, *within, self.plural, name, subresource) if part)


RESOURCES: dict[str, Resource] = {
    "AutoMLJob": Resource(API_VERSION, "automljobs"),
    "AutoMLModel": Resource(API_VERSION, "automlmodels"),
    "AutoMLProfile": Resource(API_VERSION, "automlprofiles", is_namespaced=False),
    "Pod": Resource("v1", "pods"),
    "Service": Resource("v1", "services"),
    "ServiceAccount": Resource("v1", "serviceaccounts"),
    "ConfigMap": Resource("v1", "configmaps"),
    "Event": Resource("v1", "events"),
    "Namespace": Resource("v1", "namespaces", is_namespaced=False),
    "Job": Resource("batch/v1", "jobs"),
    "Deployment": Resource("apps/v1", "deployments"),
    "HorizontalPodAutoscaler": Resource("autoscaling/v2", "horizontalpodautoscalers"),
    "PodDisruptionBudget": Resource("policy/v1", "poddisruptionbudgets"),
    "NetworkPolicy": Resource("networking.k8s.io/v1", "networkpolicies"),
    "Ingress": Resource("networking.k8s.io/v1", "ingresses"),
    "Lease": Resource("coordination.k8s.io/v1", "leases"),
    "CustomResourceDefinition": Resource("apiextensions.k8s.io/v1", "customresourcedefinitions", is_namespaced=False),
}
"""Every kind we touch. Secrets are not among them: the operator has no business with them."""


def resource_of(kind: str) -> Resource:
    """Where a kind is kept.

    Raises:
        ClusterError: not a kind we touch.
    """
    if kind not in RESOURCES:
        raise ClusterError(f"kind must be one of {', '.join(sorted(RESOURCES))}, got {kind!r}", reason="Invalid")
    return RESOURCES[kind]
