"""A finished image, unpacked, and processes in it as a cluster would run them: as its user, on a root that nobody can write to.

A container of buildah is mounted, bound read-only in a mount namespace of each process, with a fresh /tmp (an emptyDir in a cluster) and
the folders that the caller names. Nothing stays behind: the mounts end with the process, the container with the box. The network is this
machine's.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The shell that sets a process up; its arguments are root, /tmp's size, user, folders as FROM:TO, --, and the command.
_SETUP = """
set -eu
root=$1 user=$2; shift 2
mount --bind "$root" "$root"
cd "$root"  # the new mount, not the one under it
mkdir -p proc dev tmp
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs -o mode=1777,size=1g tmpfs tmp
while [ "$1" != -- ]; do
    mkdir -p "$root/${1#*:}"
    mount --bind "${1%%:*}" "$root/${1#*:}"
    shift
done
shift
mount -o remount,bind,ro "$root"
exec chroot --userspec="$user" "$root" "$@"
"""


@dataclass(frozen=True)
class Box:
    """An image in a folder. config: as its maker wrote it (User, Env, Entrypoint, Healthcheck, Labels...)."""

    image: str
    root: Path
    config: Mapping[str, Any]
    folders: Mapping[Path, str] = field(default_factory=dict)
    """Folder of this machine -> where it is in the box; they can be written to."""

    @property
    def environment(self) -> dict[str, str]:
        return dict(entry.split("=", 1) for entry in self.config["Env"])

    def start(
        self, *command: str, env: Mapping[str, str] | None = None, log: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """A process, with nothing of this machine's environment."""
        binds = [f"{folder}:{where.lstrip('/')}" for folder, where in self.folders.items()]
        setup = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _SETUP, "setup"]
        out = log.open("ab") if log else subprocess.PIPE
        return subprocess.Popen(
            [*setup, str(self.root), self.config["User"], *binds, "--", *command],
            env={**self.environment, **(env or {})} | {"PATH": f"{self.environment['PATH']}:/usr/sbin:/sbin"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )

    def run(self, *command: str, env: Mapping[str, str] | None = None, seconds: float = 120, rc: int = 0) -> str:
        """What a process says.

        Raises:
            AssertionError: it ends otherwise than with `rc`, or not in time.
        """
        process = self.start(*command, env=env)
        try:
            said = process.communicate(timeout=seconds)[0].decode(errors="replace")
        except subprocess.TimeoutExpired as error:
            stop(process)
            raise AssertionError(f"{self.image}: {shlex.join(command)} did not end within {seconds:g} s") from error
        if process.returncode != rc:
            raise AssertionError(
                f"{self.image}: {shlex.join(command)} ended with {process.returncode}:\n{said[-4000:]}"
            )
        return said

    @contextmanager
    def running(
        self, *command: str, log: Path, env: Mapping[str, str] | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A server, until the end of the block."""
        process = self.start(*command, env=env, log=log)
        try:
            yield process
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that `Box.start` gave, and what it started."""
    if process.poll() is None:
        # what runs in the box has another user, with which the kernel forgets that it was to die with its parent
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)  # the first process of its namespace: all in it end with it
        process.kill()
    process.wait()


class Buildah:
    """buildah with a store of its own, which `forget` removes."""

    def __init__(self, store: Path, driver: str) -> None:
        self.store = store
        self._command = [
            "buildah",
            "--root",
            str(store / "images"),
            "--runroot",
            str(store / "run"),
            "--storage-driver",
            driver,
        ]

    def __call__(self, *arguments: str, seconds: float = 60) -> str:
        """What buildah says on standard output.

        Raises:
            subprocess.CalledProcessError, subprocess.TimeoutExpired
        """
        command = [*self._command, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds).stdout.strip()

    def start(self, *arguments: str, log: Any, seconds: float) -> int:
        """Run with all it says in a log; its exit code."""
        return subprocess.run([*self._command, *arguments], stdout=log, stderr=log, timeout=seconds).returncode

    @contextmanager
    def box(self, image: str, folders: Mapping[Path, str] | None = None) -> Iterator[Box]:
        """An image, unpacked until the end of the block."""
        container = self("from", "--pull-never", image)
        try:
            described = json.loads(self("inspect", "--type", "image", image))
            root = Path(self("mount", container))
            yield Box(image, root, described["Docker"]["config"], dict(folders or {}))
        finally:
            self("umount", container)
            self("rm", container)

    def forget(self) -> None:
        """Remove all images and the store."""
        self("rm", "--all")
        self("rmi", "--all", "--force")
        subprocess.run(["rm", "-rf", "--one-file-system", str(self.store)], check=True)
