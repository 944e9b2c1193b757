"""Requests to an API server whose turn has come: rate limits, the threads in which they block, streams that end with the client."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, Literal, TypeVar

import urllib3

from kubeautoml.api.errors import ClusterError
from kubeautoml.api.objects import Manifest
from kubeautoml.cluster.answers import decoded, error_of, retry_after_seconds
from kubeautoml.cluster.connection import Connection, Request
from kubeautoml.cluster.requests import Limits, RateLimit, RequestCounts
from kubeautoml.cluster.stream import Stream

T = TypeVar("T")

THREADS = 16
CONNECT_SECONDS, READ_SECONDS = 5.0, 30.0


class Calls:
    """One client's way to a server. Reads and writes have a rate limit each."""

    def __init__(self, connection: Connection, limits: Limits) -> None:
        self.connection = connection
        self._reads = RateLimit(limits.reads_per_second, limits.reads_at_once)
        self._writes = RateLimit(limits.writes_per_second, limits.writes_at_once)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="kube")
        self.streams: set[Stream] = set()
        self._closed = threading.Event()
        self._writes_nothing = False

    @property
    def requests(self) -> RequestCounts:
        """What was asked of the server so far."""
        return self.connection.requests

    def close(self) -> None:
        """End every stream and connection."""
        self.stop_writing()
        self._closed.set()
        for stream in list(self.streams):
            stream.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.connection.close()

    def stop_writing(self) -> None:
        """Send no write any more, neither one that waits for its turn now; what is on its way goes on."""
        self._writes_nothing = True

    async def read(self, call: Callable[..., T], *args: Any) -> T:
        """A blocking call that begins with a read, once its turn has come."""
        self.requests.add_wait(await self._reads.turn())
        return await self._in_thread(call, *args)

    async def write(self, call: Callable[..., T], *args: Any) -> T:
        """A blocking call that begins with a write, once its turn has come.

        Raises:
            ClusterError: reason NotLeading; `stop_writing` was called meanwhile.
        """
        self.requests.add_wait(await self._writes.turn())
        if self._writes_nothing:
            raise ClusterError("this client was told to write nothing any more", reason="NotLeading")
        return await self._in_thread(call, *args)

    async def _in_thread(self, call: Callable[..., T], *args: Any) -> T:
        # with the caller's context, so that what is logged in the thread names the job, too
        return await asyncio.get_running_loop().run_in_executor(self._threads, copy_context().run, call, *args)

    def wait_to_read(self, sleep: Callable[[float], object] | None = None) -> None:
        """Wait in a thread for the turn of a read."""
        self.requests.add_wait(self._reads.wait(sleep or self._closed.wait))

    def wait_to_write(self) -> None:
        """Wait in a thread for the turn of a write."""
        self.requests.add_wait(self._writes.wait(self._closed.wait))

    async def stream(self, produce: Callable[[Stream], Iterator[T]]) -> AsyncIterator[T]:
        """What a thread of its own produces, until it ends or the caller leaves."""
        stream = Stream()
        self.streams.add(stream)
        try:
            async for item in stream.run(produce):
                yield item
        finally:
            self.streams.discard(stream)
            stream.stop()

    def json(self, request: Request) -> Manifest:
        """Ask, and give the answer.

        Raises:
            ClusterError: the server refused, or cannot be reached.
        """
        return self.answer(self.send(request, READ_SECONDS))

    def answer(self, response: urllib3.BaseHTTPResponse) -> Manifest:
        """What a response says; raises as `json`."""
        try:
            data = response.data
        except urllib3.exceptions.HTTPError as error:
            raise self.connection.unreachable(error) from error
        answer = decoded(data)
        if response.status >= 400:
            raise error_of(response.status, answer, response.headers)
        return answer

    def open(
        self, request: Request, *, read_seconds: float | None, retries: Literal[False] | None = None
    ) -> urllib3.BaseHTTPResponse:
        """Begin to read a stream."""
        response = self.send(request, read_seconds, retries)
        if response.status >= 400:
            self.answer(response)
        return response

    def send(
        self, request: Request, read_seconds: float | None, retries: Literal[False] | None = None
    ) -> urllib3.BaseHTTPResponse:
        """A request whose turn has come. A server that asks to wait is spared by all others, too."""
        response = self.connection.send(request, (CONNECT_SECONDS, read_seconds), retries=retries)
        wish = retry_after_seconds(response.status, response.headers)
        if wish is not None:
            self.requests.add_throttled()
            seconds = wish * random.uniform(1.0, 1.2)
            self._reads.pause(seconds)
            self._writes.pause(seconds)
        return response
