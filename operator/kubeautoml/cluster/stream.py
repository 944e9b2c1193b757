"""Reads what the API server sends without end (a watch, a followed log) in a thread, for one asynchronous reader."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import TypeVar

import urllib3

log = logging.getLogger(__name__)
T = TypeVar("T")

MOST_WAITING = 1000
"""Items that may wait for their reader; then the thread waits, and the server with it."""

SLICE_SECONDS = 0.005
"""A reader that has so much to read lets the event loop do something else after this long."""

_POLL_SECONDS = 0.01


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

    async def run(self, produce: Callable[[Stream], Iterator[T]]) -> AsyncGenerator[T, None]:
        """Run `produce` in a thread and hand over what it yields; raises what it raises.

        However much comes, the loop has its turn in between, and a reader that is slow slows the thread.
        """
        loop = asyncio.get_running_loop()
        waiting: deque[T] = deque()
        woken = asyncio.Event()
        failures: list[Exception] = []
        has_ended = threading.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(woken.set)

        def work() -> None:
            try:
                for item in produce(self):
                    while len(waiting) >= MOST_WAITING and not self._stopped.wait(_POLL_SECONDS):
                        pass
                    if self.is_stopped:
                        return
                    waiting.append(item)
                    if len(waiting) == 1:  # else the reader is at it, and sees this one, too
                        wake()
            except Exception as error:  # noqa: BLE001 (raised again where somebody reads)
                failures.append(error)
            finally:
                has_ended.set()
                wake()

        threading.Thread(target=work, name="kube-stream", daemon=True).start()
        while True:
            await woken.wait()
            woken.clear()
            is_last = has_ended.is_set()
            until = loop.time() + SLICE_SECONDS
            while waiting:
                yield waiting.popleft()
                if loop.time() >= until:
                    await asyncio.sleep(0)
                    until = loop.time() + SLICE_SECONDS
            if is_last:
                break
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
        finally:
            with self._lock:
                self._response = None
            response.close()
