"""What a refusal of the API server is followed by: where rights are missing, the command that prints them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from factories import make_manifest
from kubeautoml.api.errors import ClusterError
from kubeautoml.api.objects import Ref
from kubeautoml.cluster.memory import MemoryCluster
from kubeautoml.controller.carry_out import stall
from kubeautoml.controller.denied import explained, is_denied

RBAC = (
    'jobs.batch "churn-1a2b3-worker" is forbidden: User "system:serviceaccount:kubeautoml-system:kubeautoml-operator" cannot '
    'patch resource "jobs" in API group "batch" in the namespace "team-b"'
)
QUOTA = 'jobs.batch "churn-1a2b3-worker" is forbidden: exceeded quota: team-b, requested: count/jobs.batch=1, used: 1, limited: 1'


@pytest.mark.parametrize(
    ("error", "denied"),
    [
        (ClusterError(RBAC, reason="Forbidden"), True),
        (ClusterError(QUOTA, reason="Forbidden"), False),
        (ClusterError("log in again", reason="Unauthorized"), True),
        (ClusterError("no answer"), False),
    ],
)
def test_missing_rights_are_told_from_other_refusals(error: ClusterError, denied: bool) -> None:
    """A quota and Pod Security answer 403, too, and no role would help there."""
    assert is_denied(error) is denied
    assert ("`kubeautoml rbac`" in explained(error)) is denied


@pytest.mark.anyio
async def test_a_job_in_a_namespace_without_rights_says_which_and_how_to_mend_it() -> None:
    """In its condition: verb, resource, namespace, command."""
    cluster = MemoryCluster()
    stored = await cluster.put(make_manifest())

    await stall(stored, ClusterError(RBAC, reason="Forbidden"), datetime.now(UTC), cluster)

    found = await cluster.get(Ref.of(stored))
    assert found is not None
    [said] = [c for c in found["status"]["conditions"] if c["type"] == "Stalled"]
    for words in ("cannot patch resource", '"jobs"', 'in the namespace "team-b"', "`kubeautoml rbac`"):
        assert words in said["message"]
