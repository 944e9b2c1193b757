"""The namespaces that an operator of some namespaces works in: all it was told to, less those it may not.

One namespace without its Role must not keep the others waiting. So it is left out, said in the log and in a metric, looked at
again every few seconds, and taken up once the rights are there; one whose rights are taken away is let go the same way. An
operator of the whole cluster has one area, everything, and nothing of this concerns it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from itertools import count

from kubeautoml.api.errors import ClusterError
from kubeautoml.controller.denied import is_denied

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
"""Between two looks at the namespaces that are left out. A guess."""

LOOKS_A_ROUND = 6
"""At every so-manieth look those that are worked in are looked at, too: sooner than their watches would count as silent."""

REPEAT_SECONDS = 600.0
"""A namespace that is left out is logged again so often."""

Look = Callable[[str | None, bool], Awaitable[None]]
"""Raises ClusterError, with what to do, while something is missing in a namespace (None: in the cluster). The flag: whether
the operator does not work there yet, so that everything has to be looked for."""


class Areas:
    """Use it in one event loop; `denied` may be read in other threads.

    Args:
        namespaces: what the operator was told; empty for the whole cluster.
        changed: told the namespaces to work in from now on, never none, and those of them that are new.
    """

    def __init__(
        self,
        namespaces: tuple[str, ...],
        look: Look,
        changed: Callable[[tuple[str, ...], frozenset[str]], None],
    ) -> None:
        self.told = tuple(dict.fromkeys(namespaces))
        self._look, self._changed = look, changed
        self._works = False
        self._left_out: frozenset[str] = frozenset()
        self._denied: dict[str, str] = {}
        self._said_at: dict[str, float] = {}
        self._looking = asyncio.Lock()

    @property
    def served(self) -> tuple[str, ...]:
        """Where the operator works; empty for the whole cluster."""
        return tuple(n for n in self.told if n not in self._left_out)

    def serves(self, namespace: str) -> bool:
        """Whether it works there."""
        return namespace in self.served if self.told else True

    def denied(self) -> dict[str, str]:
        """Why it may not work in a namespace that it was told to work in, by namespace; all of them while it waits for the first."""
        return dict(self._denied)

    async def look(self, *, at_denied_only: bool = False) -> None:
        """Look at the namespaces, and tell what has changed.

        Raises:
            ClusterError: the operator may work nowhere, or something else than a right is missing.
        """
        async with self._looking:
            before, denied, errors = self.served if self._works else (), dict[str, str](), list[ClusterError]()
            for namespace in sorted(self._left_out) if at_denied_only else self.told or (None,):
                try:
                    await self._look(namespace, namespace not in before)
                except ClusterError as error:
                    if namespace is None or not _is_denied(error):
                        raise
                    denied[namespace] = str(error)
                    errors.append(error)
            self._denied = denied
            if self.told and len(denied) == len(self.told):
                raise errors[0]
            self._works = True
            self._leave_out(denied)
            if self.served != before:
                self._changed(self.served, frozenset(self.served) - frozenset(before))

    async def look_again(self, *, at_denied_only: bool = False) -> None:
        """Likewise while the operator works, which it goes on with when nobody answers.

        Raises:
            ClusterError: the operator may work nowhere any more.
        """
        if not self.told:
            return
        try:
            await self.look(at_denied_only=at_denied_only)
        except ClusterError as error:
            if _is_denied(error):
                raise
            log.warning("namespaces could not be looked at", extra={"error": str(error)})

    async def run(self) -> None:
        """Look again and again, until cancelled.

        Raises:
            ClusterError: the operator may work nowhere any more.
        """
        for looks in count(1):
            await asyncio.sleep(LOOK_SECONDS)
            await self.look_again(at_denied_only=looks % LOOKS_A_ROUND != 0)

    def _leave_out(self, denied: dict[str, str]) -> None:
        for namespace in sorted(self._left_out - denied.keys()):
            del self._said_at[namespace]
            log.info("namespace taken up", extra={"namespace": namespace})
        self._left_out = frozenset(denied)
        now = time.monotonic()
        for namespace, why in denied.items():
            if now - self._said_at.get(namespace, -REPEAT_SECONDS) >= REPEAT_SECONDS:
                log.error("namespace left out", extra={"namespace": namespace, "reason": "Forbidden", "error": why})
                self._said_at[namespace] = now


def _is_denied(error: ClusterError) -> bool:
    """Whether rights are missing there. Credentials that are not accepted are so everywhere, and may be renewed in a moment."""
    return error.reason == "Forbidden" and is_denied(error)
