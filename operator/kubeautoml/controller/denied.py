"""What to do when the API server says that this account may not do something."""

from __future__ import annotations

import re

from kubeautoml.api.errors import ClusterError

_RBAC = re.compile(r'cannot \S+ resource "')
"""RBAC's words, with verb, resource and namespace. A quota or an admission rule says 403, too, in other words."""

REMEDY = (
    "apply what `kubeautoml rbac` prints, with -n NAMESPACE for an operator of some namespaces only, or the chart's roles "
    "(rbac.create)"
)


def is_denied(error: ClusterError) -> bool:
    """Whether rights are missing, or the credentials are not accepted."""
    return error.reason == "Unauthorized" or (error.reason == "Forbidden" and bool(_RBAC.search(str(error))))


def explained(error: ClusterError) -> str:
    """The error in the API server's words (verb, resource, namespace), and how to mend it where rights are missing."""
    return f"{error}; {REMEDY}" if is_denied(error) else str(error)
