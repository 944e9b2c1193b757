"""What must be there before an operator can work: our definitions, the rights, the Lease. It waits for them, and says so.

Whatever is missing may come a moment later, by another hand: a restart would not bring it, and a crash loop would hide why.
So the process lives on, unready, with the reason in /readyz and in the log, and goes on by itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from kubeautoml.api.crd import make_crds
from kubeautoml.api.definitions import complaint
from kubeautoml.api.errors import ClusterError
from kubeautoml.api.names import LABEL_JOB_UID
from kubeautoml.api.objects import Ref
from kubeautoml.cluster.base import Cluster
from kubeautoml.controller.denied import explained, is_denied
from kubeautoml.controller.lease import Leases
from kubeautoml.controller.observe import SERVING_KINDS, TRAINING_KINDS

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
"""Between two looks."""

REPEAT_SECONDS = 60.0
"""The same obstacle is logged again so often."""


class Start:
    """Waits until nothing stands in the way any more. `why_not` may be read in other threads.

    Args:
        look: raises ClusterError, with what to do, while something is missing.
    """

    def __init__(self, look: Callable[[], Awaitable[None]]) -> None:
        self._look = look
        self._why_not: str | None = "the cluster has not been looked at yet"
        self._said_at = 0.0

    def why_not(self) -> str | None:
        """What is missing, in one line; None once nothing is."""
        return self._why_not

    async def wait(self, stop: asyncio.Event) -> bool:
        """Until all is there; False when it was told to stop before."""
        waited = False
        while not stop.is_set():
            try:
                await self._look()
            except ClusterError as error:
                self._say(error)
                waited = True
            else:
                self._why_not = None
                if waited:
                    log.info("operator goes on: it can work now")
                return True
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), RETRY_SECONDS)
        return False

    def _say(self, error: ClusterError) -> None:
        why, now = str(error), time.monotonic()
        if why != self._why_not or now - self._said_at > REPEAT_SECONDS:
            log.error("operator waits", extra={"reason": error.reason, "error": why})
            self._said_at = now
        self._why_not = why


async def check_definitions(cluster: Cluster) -> None:
    """Are our definitions there, and not older than this operator?

    An account with Roles only may not look at them. Then the lists that follow tell whether they are there, and nothing how old
    they are.

    Raises:
        ClusterError: one is missing or older.
    """
    for ours in make_crds():
        try:
            found = await cluster.get(Ref.of(ours))
        except ClusterError as error:
            if not is_denied(error):
                raise
            log.debug("definitions may not be looked at", extra={"error": str(error)})
            return
        if why := complaint(ours, found):
            raise ClusterError(why, reason="DefinitionMissing" if found is None else "DefinitionOutdated")


async def check_access(cluster: Cluster, namespace: str | None, is_new: bool = True) -> None:
    """Look for our kinds once, so that a missing right is said in one line.

    Args:
        namespace: where; None for the whole cluster.
        is_new: look for all of them; else only for jobs, which takes the server little.

    Raises:
        ClusterError: with what to do.
    """
    for kind in ("AutoMLJob", *TRAINING_KINDS, *SERVING_KINDS, "Pod") if is_new else ("AutoMLJob",):
        await _check_list(cluster, kind, namespace)
    if namespace is None:
        # With rights in some namespaces only, an operator may have none to profiles, and does without.
        await _check_list(cluster, "AutoMLProfile", None)


def check_lease(leases: Leases, ref: Ref) -> None:
    """Look for the Lease once, so that a missing right is said in one line.

    Raises:
        ClusterError: with what to do.
    """
    try:
        leases.read_lease(ref)
    except ClusterError as error:
        hint = ", or add --no-leader-election where no other operator can be running" if is_denied(error) else ""
        raise ClusterError(f"{ref} cannot be read: {explained(error)}{hint}", reason=error.reason) from error


async def _check_list(cluster: Cluster, kind: str, namespace: str | None) -> None:
    """List what our label selects, which is little, but takes the kind and the right to be there."""
    try:
        await cluster.list(kind, namespace, {LABEL_JOB_UID: "none"})
    except ClusterError as error:
        raise ClusterError(f"{kind} objects cannot be listed: {explained(error)}", reason=error.reason) from error
