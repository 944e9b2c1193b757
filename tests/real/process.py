"""Server processes of the tests: started with a log each, in their own group, ended by their id whatever happens."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path

_SETPRIV = shutil.which("setpriv")


def dies_with_us(command: list[str]) -> list[str]:
    """The same command, killed by the system should this process be killed (Linux, where util-linux is at hand)."""
    return [_SETPRIV, "--pdeathsig", "KILL", "--", *command] if _SETPRIV else command


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a server that writes its output to `log`."""
    with log.open("ab") as out:
        return subprocess.Popen(
            dies_with_us(command), stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
        )


def end(process: subprocess.Popen[bytes], grace_seconds: float = 0.0) -> None:
    """End a process and its group; with no grace, at once (nothing that the tests start keeps anything)."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM if grace_seconds else signal.SIGKILL)
    try:
        process.wait(timeout=grace_seconds or 30)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
