"""The controller's side of the shared studies: opened once a URL, called in threads, every failure a StudyError.

A study server that hangs must cost only the jobs whose studies it holds. So each URL has threads of its own, a call is
waited for only so long, and while a URL does not answer further calls to it fail at once instead of holding up passes.
Storages stay open for their connections; databases and the study server count trials themselves, so none are kept here.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from kubeautoml.api.errors import KubeAutoMLError, StudyError
from kubeautoml.api.metrics import Direction
from kubeautoml.api.names import study_name
from kubeautoml.api.trials import StudyOrders, StudySummary
from kubeautoml.controller.fence import Fence

log = logging.getLogger(__name__)
T = TypeVar("T")

THREADS = 4
"""Calls to the studies of one URL at the same time; a guess."""

PATIENCE_SECONDS = 5.0
"""How long a call waits for a study server that is away. Passes come again by themselves, so they need not wait long."""

CALL_SECONDS = 30.0
"""A call that takes longer is given up; its thread ends when it ends."""

REST_SECONDS = 5.0
"""After a call that waited in vain others to the same URL fail at once for so long; a guess."""


class CallObserver(Protocol):
    """Told of every call; `Metrics` is one."""

    def study_call(self, call: str) -> AbstractContextManager[None]: ...


class Studies:
    """Studies by URL and name. Use it in one event loop.

    Args:
        token_file: bearer token for the study server.
        ca_file: authority that signed the study server's certificate.
        fence: what writes must pass.
        observer: told of every call.
    """

    def __init__(
        self,
        token_file: Path | None = None,
        ca_file: Path | None = None,
        fence: Fence | None = None,
        observer: CallObserver | None = None,
    ) -> None:
        self._token_file = token_file
        self._ca_file = ca_file
        self._fence = fence or Fence()
        self._observer = observer
        self._places: dict[str, _Place] = {}

    # Reading

    async def summary(self, url: str, name: str) -> StudySummary | None:
        """What the planner needs to know; None when there is no such study."""
        from kubeautoml.study import load_summary

        return await self._call("summary", url, lambda storage: load_summary(storage, name))

    async def latest(self, url: str, namespace: str, job: str) -> str | None:
        """Name of the newest study of a job, whatever its uid, that has a completed trial; None when there is none."""
        from kubeautoml.study.housekeeping import latest_study

        prefix = study_name(namespace, job, "")
        return await self._call("latest", url, lambda storage: latest_study(storage, prefix))

    # Writing

    async def create(self, url: str, name: str, direction: Direction) -> None:
        """Make the study unless it is there."""
        from kubeautoml.study import create_study

        await self._write("create", url, lambda storage: create_study(storage, name, direction))

    async def carry_out(self, url: str, name: str, orders: StudyOrders) -> None:
        """Bring the study in line with the planner's orders."""
        from kubeautoml.study import carry_out_orders

        await self._write("carry_out", url, lambda storage: carry_out_orders(storage, name, orders))

    async def delete(self, url: str, name: str) -> bool:
        """Delete a study with its trials; False when there was none."""
        from kubeautoml.study.housekeeping import delete_study

        return await self._write("delete", url, lambda storage: delete_study(storage, name))

    async def stop(self, url: str, name: str) -> bool:
        """Tell workers to finish nothing more; False while the study or its limits are not there yet."""
        summary = await self.summary(url, name)
        if summary is None or summary.limits is None:
            return False
        if not summary.limits.stop:
            await self.carry_out(url, name, StudyOrders(limits=replace(summary.limits, stop=True)))
        return True

    async def reopen(self, url: str, name: str, direction: Direction) -> None:
        """Take back everything that ended a search, so that it can go on; trials stay. Makes the study if need be."""
        from kubeautoml.study import create_study, set_study_attr
        from kubeautoml.study.orders import ENDINGS

        def clear(storage: Any) -> None:
            study = create_study(storage, name, direction)
            for attr in ENDINGS:
                if study.user_attrs.get(attr.value) is not None:
                    set_study_attr(study, attr, None)

        await self._write("reopen", url, clear)

    def close(self) -> None:
        """Let go of the threads; calls that still run are not waited for."""
        for place in self._places.values():
            place.close()

    async def _write(self, name: str, url: str, act: Callable[[Any], T]) -> T:
        return await self._fence.pass_(lambda: self._call(name, url, act))

    async def _call(self, name: str, url: str, act: Callable[[Any], T]) -> T:
        if url not in self._places:
            self._places[url] = _Place(lambda: self._open(url))
        with self._observer.study_call(name) if self._observer else nullcontext():
            return await self._places[url].call(act)

    def _open(self, url: str) -> Any:
        """The optuna storage behind a URL, which only `kubeautoml.study` knows how to use."""
        from kubeautoml.study import open_study_storage

        return open_study_storage(
            url, self._token_file, self._ca_file, connections=THREADS, patience_seconds=PATIENCE_SECONDS
        )


class _Place:
    """One URL: its storage, its threads, and whether it answers. `call` is for one event loop."""

    def __init__(self, open_storage: Callable[[], Any]) -> None:
        self._open_storage = open_storage
        self._storage: Any = None
        self._opening = threading.Lock()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="study")
        self._began: dict[int, float] = {}
        self._calls = 0
        self._rests_until = 0.0
        self._why = ""

    async def call(self, act: Callable[[Any], T]) -> T:
        """Call the storage in a thread.

        Raises:
            StudyError: it failed, took too long, or did not answer others just now.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now < self._rests_until or self._is_hanging(now):
            raise StudyError(self._why or "the study did not answer: all calls to it hang; see the study server's log")
        self._calls += 1
        number = self._calls
        # With the context of the pass, so that what is logged in the thread names the job, too.
        future = loop.run_in_executor(self._threads, copy_context().run, self._act, number, act)
        try:
            answer = await asyncio.wait_for(future, CALL_SECONDS)
            self._answered()
            return answer
        except TimeoutError as error:
            why = f"the study did not answer within {CALL_SECONDS:.0f} s; see the study server's log"
            self._rest(loop.time(), why)
            raise StudyError(why) from error
        except StudyError as error:
            if loop.time() - now >= PATIENCE_SECONDS / 2:
                self._rest(loop.time(), str(error))
            raise

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _rest(self, now: float, why: str) -> None:
        if not self._why:
            log.warning("studies do not answer", extra={"error": why})
        self._rests_until, self._why = now + REST_SECONDS, why

    def _answered(self) -> None:
        if self._why:
            log.info("studies answer again", extra={"before": self._why})
        self._why = ""

    def _is_hanging(self, now: float) -> bool:
        """Whether every thread is in a call that has taken too long already."""
        began = list(self._began.values())
        return len(began) >= THREADS and all(now - since > CALL_SECONDS for since in began)

    def _opened(self) -> Any:
        with self._opening:
            if self._storage is None:
                self._storage = self._open_storage()
            return self._storage

    def _act(self, number: int, act: Callable[[Any], T]) -> T:
        self._began[number] = time.monotonic()
        try:
            return act(self._opened())
        except KubeAutoMLError:
            raise
        except Exception as error:
            # Optuna passes on whatever the database driver raises. Open it anew next time: pools may be broken.
            self._storage = None
            message = (str(error).splitlines() or [""])[0]
            raise StudyError(f"the study did not answer: {type(error).__name__}: {message}") from error
        finally:
            del self._began[number]
