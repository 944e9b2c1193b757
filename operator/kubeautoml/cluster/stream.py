"""Reads what the API server sends without end (a watch, a followed log) in a thread, for one asynchronous reader."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

import urllib3

from kubeautoml.api.errors import ClusterError

log = logging.getLogger(__name__)
T = TypeVar("T")


class Stream:
    """A thread that reads from the server for one asynchronous reader, and can be stopped while it waits."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._response: urllib3.BaseHTTPResponse | None = None
        self._lock = threading.Lock()

    @property
    def is_stopped(self) -> bool:
        return self._stopped.is_set()

    def wait(self, seconds: float) -> None:
        """Sleep, unless stopped."""
        self._stopped.wait(seconds)

    def stop(self) -> None:
        """Wake the thread wherever it waits."""
        with self._lock:
            self._stopped.set()
            if self._response is not None:
                with contextlib.suppress(OSError, ValueError, RuntimeError, urllib3.exceptions.HTTPError):
                    self._response.shutdown()

    async def run(self, produce: Callable[[Stream], Iterator[T]]) -> AsyncIterator[T]:
        """Run `produce` in a thread and hand over what it yields; raises what it raises."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[T] | None] = asyncio.Queue()
        failures: list[ClusterError] = []

        def hand_over(item: tuple[T] | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(queue.put_nowait, item)

        def work() -> None:
            try:
                for item in produce(self):
                    if self.is_stopped:
                        return
                    hand_over((item,))
            except ClusterError as error:
                failures.append(error)
            finally:
                hand_over(None)

        threading.Thread(target=work, name="kube-stream", daemon=True).start()
        while (item := await queue.get()) is not None:
            yield item[0]
        if failures:
            raise failures[0]

    def lines(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        """Lines as they arrive, until the server ends the stream, the connection breaks, or we are stopped."""
        with self._lock:
            self._response = response
        rest = b""
        try:
            if self.is_stopped:
                return
            for chunk in response.stream(None):
                *whole, rest = (rest + chunk).split(b"\n")
                yield from filter(None, whole)
            if rest:
                yield rest
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # ValueError and AttributeError: the connection was shut while this thread was reading from it.
            if not self.is_stopped:
                log.debug("stream broke", extra={"error": repr(error)})
                self.wait(0.2)
        finally:
            with self._lock:
                self._response = None
            response.close()
