"""A proxy in front of a real server, for what a network or a server in trouble does to a client.

Any TCP server (PostgreSQL, S3, gRPC, an API server whose TLS passes through untouched):

    with faulty_proxy(port) as proxy:                # clients use 127.0.0.1:proxy.port
        proxy.cut()                                  # every connection ends now; new ones are welcome
        proxy.set_mode(Mode.REFUSE)                  # old ones are cut, new ones are reset: the server is down
        proxy.set_mode(Mode.DEAF)                    # requests arrive, answers are lost: the worst case for exactly once
        proxy.set_mode(Mode.HANG)                    # nothing passes, nothing ends: a black hole; OPEN lets all of it pass
        proxy.freeze()                               # what is open now hangs for ever; new connections are fine
        proxy.set_delay(0.5)                         # everything comes later by so many seconds
        proxy.set_mode(Mode.OPEN)                    # as if it were not there

HTTP/1.1 servers, also behind TLS, which the proxy then ends itself with the server's own certificate and key:

    with faulty_proxy(port, http=True, tls=Tls(certificate, key)) as proxy:
        proxy.once(Answer(429, {"Retry-After": "2"}))                  # to the next request; it never reaches the server
        proxy.once(Answer(410), path="watch=true", times=3)            # to the next three that have this in their path
        proxy.once(Lost(), method="PATCH")                             # the server does it, the answer is lost
        proxy.once(Cut(), method="PATCH")                              # cut before the server hears of it
        proxy.once(CutAfter(700), path="watch=true")                   # cut in the middle of the answer
        proxy.once(Silent(), path="/api/v1/pods")                      # no answer, and the connection stays
        proxy.once(Late(2.0), method="GET")                            # passed on after so many seconds
        proxy.seen                                                     # every request so far: "PATCH /api/v1/..."

Methods may be called from any thread but the proxy's own, and have taken effect when they return.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path


class Mode(Enum):
    """What the proxy does with connections, old and new."""

    OPEN = auto()
    REFUSE = auto()
    DEAF = auto()
    HANG = auto()


@dataclass(frozen=True)
class Tls:
    """What the proxy shows to clients, and trusts itself."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Answer:
    """The proxy answers in the server's place. Without a body: a Status as an API server would send."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None

    def encoded(self) -> bytes:
        """As sent."""
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": self.status, "message": "scripted"}
        body = json.dumps(status).encode() if self.body is None else self.body
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **self.headers}
        lines = [f"HTTP/1.1 {self.status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(frozen=True)
class Lost:
    """The server does what was asked; its answer is lost with the connection."""


@dataclass(frozen=True)
class Cut:
    """The connection is cut before the server hears of the request."""


@dataclass(frozen=True)
class CutAfter:
    """The connection is cut after so many bytes of the answer, head included."""

    answer_bytes: int


@dataclass(frozen=True)
class Silent:
    """The request gets no answer, and the connection stays."""


@dataclass(frozen=True)
class Late:
    """The request is passed on after so many seconds."""

    seconds: float


Fault = Answer | Lost | Cut | CutAfter | Silent | Late


@dataclass
class _Scripted:
    fault: Fault
    method: str
    path: str
    times: int

    def fits(self, method: str, path: str) -> bool:
        return self.times > 0 and self.method in ("", method) and self.path in path


@dataclass(eq=False)
class _Connection:
    """One client's, with the server's end; `cut_after` bytes of the current answer it is cut."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    cut_after: int | None = None
    is_frozen: bool = False

    def abort(self) -> None:
        for end in (self.client, self.server):
            end.transport.abort()


class FaultyProxy:
    """Forwards 127.0.0.1:port to 127.0.0.1:target. See the module for what it can do."""

    def __init__(self, target: int, *, http: bool = False, tls: Tls | None = None) -> None:
        self._target = target
        self._http = http
        self._tls = tls
        self._mode, self._delay_seconds = Mode.OPEN, 0.0
        self._script: list[_Scripted] = []
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._connections: set[_Connection] = set()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"proxy-{target}", daemon=True)
        self.port = 0
        self.seen: list[str] = []
        """Requests, as "METHOD /path?query"; only with `http`."""

    def start(self) -> None:
        self._thread.start()
        if not self._started.wait(10):
            raise RuntimeError("the proxy must listen within 10 s")

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)

    def set_mode(self, mode: Mode) -> None:
        """Go over to a mode; connections that were refused or robbed of an answer end."""
        self._do(lambda: self._change(mode))

    def set_delay(self, seconds: float) -> None:
        """Let everything pass so much later, in either direction."""
        self._do(lambda: setattr(self, "_delay_seconds", seconds))

    def cut(self) -> None:
        """End every connection now; new ones are welcome."""
        self._do(self._cut)

    def freeze(self) -> None:
        """Let every connection hang that is open now, as after a failed load balancer; new ones are welcome."""
        self._do(self._freeze)

    def once(self, fault: Fault, *, method: str = "", path: str = "", times: int = 1) -> None:
        """Do this to the next requests of the method whose path and query contain `path`; first come, first served."""
        self._do(lambda: self._script.append(_Scripted(fault, method, path, times)))

    @property
    def is_done(self) -> bool:
        """Whether everything scripted with `once` has happened."""
        return all(scripted.times == 0 for scripted in self._script)

    def _do(self, what: Callable[[], object]) -> None:
        async def call() -> None:
            what()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._flowing.set()
        context = None
        if self._tls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(self._tls.certificate, self._tls.key)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context))
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        server.close()
        self._cut()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def _change(self, mode: Mode) -> None:
        before, self._mode = self._mode, mode
        if mode is Mode.REFUSE or before is Mode.DEAF:
            self._cut()
        if mode is Mode.HANG:
            self._flowing.clear()
        else:
            self._flowing.set()

    def _cut(self) -> None:
        for connection in self._connections:
            connection.abort()
        self._connections.clear()

    def _freeze(self) -> None:
        for connection in self._connections:
            connection.is_frozen = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode is Mode.REFUSE:
            return writer.transport.abort()
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target, ssl=self._trust())
        except OSError:
            return writer.transport.abort()
        connection = _Connection(writer, back)
        self._connections.add(connection)
        asking = self._ask(reader, connection) if self._http else self._pump(reader, connection)
        try:
            await asyncio.gather(asking, self._answer(there, connection))
        except asyncio.CancelledError:
            return None  # the proxy stops; asyncio's own callback would print a traceback for each connection
        finally:
            self._connections.discard(connection)
            connection.abort()
        return None

    def _trust(self) -> ssl.SSLContext | None:
        if not self._tls:
            return None
        context = ssl.create_default_context(cafile=str(self._tls.certificate))
        context.check_hostname = False
        return context

    async def _pump(self, source: asyncio.StreamReader, connection: _Connection) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                if not connection.is_frozen:
                    await self._pass_on(connection.server, data)
        _end(connection.server)

    async def _answer(self, source: asyncio.StreamReader, connection: _Connection) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                if self._mode is Mode.DEAF or connection.is_frozen:
                    continue
                if connection.cut_after is not None:
                    data = data[: connection.cut_after]
                    connection.cut_after -= len(data)
                await self._pass_on(connection.client, data)
                if connection.cut_after == 0:
                    await asyncio.sleep(0)
                    return connection.abort()
        return _end(connection.client)

    async def _ask(self, source: asyncio.StreamReader, connection: _Connection) -> None:
        """Pass requests on one by one, each after what is scripted for it."""
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await source.readuntil(b"\r\n\r\n")
                body = await source.readexactly(_content_length(head))
                method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
                if connection.is_frozen:
                    continue
                self.seen.append(f"{method} {path}")
                match self._fault_for(method, path):
                    case Answer() as answer:
                        await self._pass_on(connection.client, answer.encoded())
                        continue
                    case Cut():
                        return connection.abort()
                    case Silent():
                        continue
                    case Lost():
                        connection.cut_after = 0
                    case CutAfter(count):
                        connection.cut_after = count
                    case Late(seconds):
                        await asyncio.sleep(seconds)
                await self._pass_on(connection.server, head + body)
        return _end(connection.server)

    def _fault_for(self, method: str, path: str) -> Fault | None:
        for scripted in self._script:
            if scripted.fits(method, path):
                scripted.times -= 1
                return scripted.fault
        return None

    async def _pass_on(self, sink: asyncio.StreamWriter, data: bytes) -> None:
        if self._delay_seconds:
            await asyncio.sleep(self._delay_seconds)
        await self._flowing.wait()
        if data:
            sink.write(data)
            await sink.drain()


def _end(sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        if sink.is_closing():
            return
        if sink.can_write_eof():
            sink.write_eof()
        else:
            sink.close()


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
        if name.strip().lower() == b"transfer-encoding":
            raise NotImplementedError("the proxy reads no chunked requests; send them with a length")
    return 0


@contextmanager
def faulty_proxy(target: int, *, http: bool = False, tls: Tls | None = None) -> Iterator[FaultyProxy]:
    """A running proxy, stopped at the end.

    Args:
        target: port of the server, on 127.0.0.1.
        http: read requests, so that `once` and `seen` work.
        tls: end TLS here and begin it anew; not needed to cut, hang or delay.
    """
    proxy = FaultyProxy(target, http=http, tls=tls)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
