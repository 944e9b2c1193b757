"""The controller's side of the shared studies: opened once a URL, called in threads, every failure a StudyError."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from kubeautoml.api.errors import KubeAutoMLError, StudyError
from kubeautoml.api.metrics import Direction
from kubeautoml.api.trials import StudyAttr, StudyOrders, StudySummary

T = TypeVar("T")

THREADS = 4
"""Calls to studies at the same time; a guess. A study server that hangs blocks this many reconciles, not the loop."""

ENDINGS = (StudyAttr.LIMITS, StudyAttr.FAILURE, StudyAttr.SEARCH, StudyAttr.STAGE, StudyAttr.RESULT)
"""What is written into a study when a search ends."""


class Studies:
    """Studies by URL and name. Storages stay open, since they cache finished trials.

    Args:
        token_file: bearer token for the study server.
        ca_file: authority that signed the study server's certificate.
    """

    def __init__(self, token_file: Path | None = None, ca_file: Path | None = None) -> None:
        self._token_file = token_file
        self._ca_file = ca_file
        self._storages: dict[str, Any] = {}
        self._opening = threading.Lock()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="study")

    async def summary(self, url: str, name: str) -> StudySummary | None:
        """What the planner needs to know; None when there is no such study."""
        from kubeautoml.study import load_summary

        return await self._call(url, lambda storage: load_summary(storage, name))

    async def create(self, url: str, name: str, direction: Direction) -> None:
        """Make the study unless it is there."""
        from kubeautoml.study import create_study

        await self._call(url, lambda storage: create_study(storage, name, direction))

    async def carry_out(self, url: str, name: str, orders: StudyOrders) -> None:
        """Bring the study in line with the planner's orders."""
        from kubeautoml.study import carry_out_orders

        await self._call(url, lambda storage: carry_out_orders(storage, name, orders))

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

        def clear(storage: Any) -> None:
            study = create_study(storage, name, direction)
            for attr in ENDINGS:
                if study.user_attrs.get(attr.value) is not None:
                    set_study_attr(study, attr, None)

        await self._call(url, clear)

    def close(self) -> None:
        """Let go of the threads; calls that still run are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _call(self, url: str, act: Callable[[Any], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._act, url, act)

    def _act(self, url: str, act: Callable[[Any], T]) -> T:
        try:
            return act(self._open(url))
        except KubeAutoMLError:
            raise
        except Exception as error:
            # Optuna passes on whatever the database driver raises. Open it anew next time: pools may be broken.
            self._storages.pop(url, None)
            message = (str(error).splitlines() or [""])[0]
            raise StudyError(f"the study did not answer: {type(error).__name__}: {message}") from error

    def _open(self, url: str) -> Any:
        """The optuna storage behind a URL, which only `kubeautoml.study` knows how to use."""
        from kubeautoml.study import open_study_storage

        with self._opening:
            if url not in self._storages:
                self._storages[url] = open_study_storage(url, self._token_file, self._ca_file)
            return self._storages[url]
