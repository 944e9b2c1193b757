"""Who may do what: the rights of the operator, of the study server, and of users, as RBAC rules.

No more than is used: tests compare these rules with what the operator really asks the API server for. No verb on secrets,
none on pods beyond looking, none on nodes. Pods of a job (workers, finalizer, servers) have no right and no token at all.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubeautoml.api.kinds import GROUP
from kubeautoml.api.names import LEASE_NAME
from kubeautoml.api.objects import Manifest

OPERATOR_ACCOUNT = "kubeautoml-operator"
STUDY_ACCOUNT = "kubeautoml-study-server"
OPERATOR_NAMESPACE = "kubeautoml-system"
CERTIFICATE_ACCOUNT = "kubeautoml-certificate"
DEFINITIONS_ACCOUNT = "kubeautoml-crds"
STUDY_TLS_SECRET = "kubeautoml-study-tls"
DEFINITIONS = tuple(f"{plural}.{GROUP}" for plural in ("automljobs", "automlmodels", "automlprofiles"))
"""Names of our CustomResourceDefinitions."""

_LOOK = ("list", "watch")
_KEEP = ("get", "list", "watch", "create", "patch", "delete")
"""What server-side apply needs: patch, and create where the object is not there yet. Before that we look whether somebody
else has an object by that name."""


@dataclass(frozen=True)
class Right:
    """One rule: verbs on resources of an API group."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()
    """Only objects of these names; empty for all."""

    def to_manifest(self) -> Manifest:
        """As it stands in a Role."""
        only = {"resourceNames": list(self.names)} if self.names else {}
        return {"apiGroups": [self.group], "resources": list(self.resources), "verbs": list(self.verbs), **only}


OPERATOR = (
    Right(GROUP, ("automljobs",), ("get", *_LOOK)),
    Right(GROUP, ("automljobs/status", "automlmodels/status"), ("patch",)),
    # asked for where OwnerReferencesPermissionEnforcement is on: our children block the deletion of their owner
    Right(GROUP, ("automljobs/finalizers",), ("update",)),
    Right(GROUP, ("automlmodels",), ("get", *_LOOK, "create", "patch")),
    Right("batch", ("jobs",), _KEEP),
    Right("apps", ("deployments",), _KEEP),
    Right("", ("services",), _KEEP),
    Right("autoscaling", ("horizontalpodautoscalers",), _KEEP),
    Right("policy", ("poddisruptionbudgets",), _KEEP),
    Right("networking.k8s.io", ("networkpolicies",), _KEEP),
    Right("", ("pods",), _LOOK),
    # an event that was emitted before is read and counted up
    Right("", ("events",), ("create", "get", "patch")),
)
"""In every namespace that the operator works in."""

OPERATOR_CLUSTER = (Right(GROUP, ("automlprofiles",), ("get", *_LOOK)),)
"""Of the whole cluster. An operator with Roles only has none of it, and works with its own settings instead of profiles."""

OPERATOR_LEASE = (
    Right("coordination.k8s.io", ("leases",), ("create",)),
    Right("coordination.k8s.io", ("leases",), ("get", "update"), names=(LEASE_NAME,)),
)
"""In the operator's own namespace. A right to create cannot be given by name."""

STUDY_SERVER = (Right("", ("pods",), ("get",)),)
"""In every namespace with jobs: whose pod is it that shows a token?"""

STUDY_SERVER_CLUSTER = (Right("authentication.k8s.io", ("tokenreviews",), ("create",)),)
"""Tokens are checked by the API server, which has no namespaced way to ask it."""

OPERATOR_DEFINITIONS = (Right("apiextensions.k8s.io", ("customresourcedefinitions",), ("get",), names=DEFINITIONS),)
"""Of the whole cluster: are our own definitions there, and not older than the operator?"""

SETUP_CERTIFICATE = (
    Right("", ("secrets",), ("create",)),
    Right("", ("secrets",), ("get", "patch"), names=(STUDY_TLS_SECRET,)),
)
"""Of the Job that makes the study server's certificate (`kubeautoml certificate`), in its own namespace: it can read no secret but
the one that it makes. A right to create cannot be given by name."""

SETUP_DEFINITIONS = (
    # server-side apply of a definition that is not there yet takes create, which cannot be given by name
    Right("apiextensions.k8s.io", ("customresourcedefinitions",), ("create",)),
    Right("apiextensions.k8s.io", ("customresourcedefinitions",), ("get", "patch"), names=DEFINITIONS),
)
"""Of the Job that brings our definitions up to date before an upgrade (`kubeautoml crds --apply`)."""

_KINDS = ("automljobs", "automlmodels")
USER_VIEW = (Right(GROUP, (*_KINDS, "automlprofiles"), ("get", "list", "watch")),)
USER_EDIT = (Right(GROUP, _KINDS, ("create", "delete", "deletecollection", "patch", "update")),)
"""Added to the built-in roles view, edit and admin: who may work in a namespace may have jobs in it. Profiles are the
platform team's, so nobody but a cluster's administrators may write them."""


_OPERATOR_WIDE = (OPERATOR_CLUSTER, OPERATOR_DEFINITIONS)


def rules(*rights: tuple[Right, ...]) -> list[Manifest]:
    """The rules of a Role or ClusterRole."""
    return [right.to_manifest() for group in rights for right in group]


def role_objects(
    operator_namespace: str = OPERATOR_NAMESPACE,
    namespaces: tuple[str, ...] = (),
    lease_namespace: str = "",
) -> list[Manifest]:
    """Accounts, roles and bindings, to be applied in this order.

    Args:
        operator_namespace: where operator and study server run.
        namespaces: where the operator works, by Roles only; empty for the whole cluster, by a ClusterRole.
        lease_namespace: where the operators' Lease is; empty for the operator's namespace.
    """
    accounts = [_account(name, operator_namespace) for name in (OPERATOR_ACCOUNT, STUDY_ACCOUNT)]
    lease = _role(
        "Role",
        f"{OPERATOR_ACCOUNT}-lease",
        rules(OPERATOR_LEASE),
        operator_namespace,
        OPERATOR_ACCOUNT,
        lease_namespace,
    )
    review = rules(STUDY_SERVER_CLUSTER)
    if not namespaces:
        everywhere = [
            *_role("ClusterRole", OPERATOR_ACCOUNT, rules(OPERATOR, *_OPERATOR_WIDE), operator_namespace),
            *_role("ClusterRole", STUDY_ACCOUNT, rules(STUDY_SERVER) + review, operator_namespace),
            *_user_roles(),
        ]
        return [*accounts, *lease, *everywhere]
    within = [
        m
        for namespace in namespaces
        for name, own in ((OPERATOR_ACCOUNT, OPERATOR), (STUDY_ACCOUNT, STUDY_SERVER))
        for m in _role("Role", name, rules(own), operator_namespace, within=namespace)
    ]
    return [
        *accounts,
        *lease,
        *within,
        *_role("ClusterRole", f"{STUDY_ACCOUNT}-tokens", review, operator_namespace, STUDY_ACCOUNT),
        *_role(
            "ClusterRole", f"{OPERATOR_ACCOUNT}-crds", rules(OPERATOR_DEFINITIONS), operator_namespace, OPERATOR_ACCOUNT
        ),
    ]


def setup_objects(operator_namespace: str = OPERATOR_NAMESPACE) -> list[Manifest]:
    """Accounts, roles and bindings of the two Jobs that an install and an upgrade run: certificate and definitions."""
    certificate = _role("Role", CERTIFICATE_ACCOUNT, rules(SETUP_CERTIFICATE), operator_namespace)
    definitions = _role("ClusterRole", DEFINITIONS_ACCOUNT, rules(SETUP_DEFINITIONS), operator_namespace)
    accounts = [_account(name, operator_namespace) for name in (CERTIFICATE_ACCOUNT, DEFINITIONS_ACCOUNT)]
    return [*accounts, *certificate, *definitions]


def _account(name: str, namespace: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": namespace, "labels": _labels(name)},
    }


def _role(
    kind: str, name: str, own: list[Manifest], operator_namespace: str, account: str = "", within: str = ""
) -> tuple[Manifest, Manifest]:
    """A role and its binding to an account of the operator's namespace, which is called as the role unless told."""
    placed = {"namespace": within or operator_namespace} if kind == "Role" else {}
    subject = {"kind": "ServiceAccount", "name": account or name, "namespace": operator_namespace}
    api = "rbac.authorization.k8s.io"
    metadata = {"name": name, **placed, "labels": _labels(account or name)}
    return (
        {"apiVersion": f"{api}/v1", "kind": kind, "metadata": metadata, "rules": own},
        {
            "apiVersion": f"{api}/v1",
            "kind": f"{kind}Binding",
            "metadata": metadata,
            "roleRef": {"apiGroup": api, "kind": kind, "name": name},
            "subjects": [subject],
        },
    )


def _user_roles() -> list[Manifest]:
    aggregate = "rbac.authorization.k8s.io/aggregate-to-"
    grants = (("view", USER_VIEW, ("view", "edit", "admin")), ("edit", USER_EDIT, ("edit", "admin")))
    return [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {
                "name": f"kubeautoml-{name}",
                "labels": {**_labels("kubeautoml"), **{f"{aggregate}{to}": "true" for to in roles}},
            },
            "rules": rules(rights),
        }
        for name, rights, roles in grants
    ]


def _labels(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "kubeautoml"}
