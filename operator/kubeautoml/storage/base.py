"""What an object store can do, in terms that fit a folder and a bucket alike, and how URIs and globs are read.

Every store translates its library's errors at the doorway: callers see StorageError, ObjectNotFound or AccessDenied.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kubeautoml.api.errors import StorageError

_WILDCARDS = re.compile(r"[*?]")


@dataclass(frozen=True)
class StoredObject:
    """One object in a store. `version` changes whenever the content does (an ETag, or time and size of a file)."""

    uri: str
    size_bytes: int
    version: str


class ObjectStore(Protocol):
    """Objects by URI. Methods raise StorageError, ObjectNotFound or AccessDenied, never a library's own errors."""

    def find(self, uri: str, hidden: bool = False) -> list[StoredObject]:
        """What a URI means: one object, everything below a prefix that ends in "/", or the matches of a glob.

        Globs know `*` and `?` (within one folder) and `**` (any number of folders). Names that start with "." or "_"
        (such as _SUCCESS) are left out of prefixes and are matched by a glob only if it spells that character, unless
        `hidden` is set. Sorted by URI; empty when nothing is there.
        """
        ...

    def read(self, uri: str) -> bytes:
        """The whole object; use `download` for large ones."""
        ...

    def write(self, uri: str, data: bytes) -> None:
        """Create or replace an object; readers see the old or the new one, never a part."""
        ...

    def exists(self, uri: str) -> bool:
        """Whether there is an object with exactly this URI."""
        ...

    def download(self, uri: str, path: Path) -> None:
        """Copy an object into a file, piece by piece; the file appears only when it is complete."""
        ...

    def upload(self, path: Path, uri: str) -> None:
        """Copy a file into an object, piece by piece; the object appears only when it is complete."""
        ...

    def delete(self, uri: str) -> int:
        """Delete an object, or everything below a prefix that ends in "/"; how many there were."""
        ...


def is_glob(uri: str) -> bool:
    """Whether the URI holds a wildcard."""
    return _WILDCARDS.search(uri) is not None


def glob_root(pattern: str) -> str:
    """The folder to list for a pattern: all up to the last "/" before the first wildcard.

    >>> glob_root("data/2024-*/part-?.csv")
    'data/'
    """
    wildcard = _WILDCARDS.search(pattern)
    fixed = pattern[: wildcard.start()] if wildcard else pattern
    return fixed[: fixed.rfind("/") + 1]


def glob_regex(pattern: str, hidden: bool = False) -> re.Pattern[str]:
    """The pattern as a regular expression for `fullmatch`.

    >>> bool(glob_regex("a/**/*.csv").fullmatch("a/b/c/d.csv")), bool(glob_regex("a/*").fullmatch("a/_SUCCESS"))
    (True, False)
    """
    visible = "" if hidden else "(?![._])"
    parts = pattern.split("/")
    regex = ""
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if part == "**":
            regex += f"(?:{visible}[^/]+/)*" + (f"{visible}[^/]+" if last else "")
        else:
            regex += (visible if part[:1] in ("*", "?") else "") + _part_regex(part) + ("" if last else "/")
    return re.compile(regex, re.DOTALL)


def _part_regex(part: str) -> str:
    spelt = {"*": "[^/]*", "?": "[^/]"}
    return "".join(spelt.get(char) or re.escape(char) for char in re.sub(r"\*+", "*", part))


def is_hidden(relative: str) -> bool:
    """Whether a path below a prefix, or a folder on the way, starts with "." or "_"."""
    return any(part.startswith((".", "_")) for part in relative.split("/"))


def safe_target(folder: Path, relative: str, uri: str) -> Path:
    """Where a downloaded object goes; refuses names that would leave the folder.

    Raises:
        StorageError: the object's name holds ".." or starts at the root.
    """
    if relative.startswith("/") or ".." in relative.split("/"):
        raise StorageError(
            f"{uri} must not hold '..' or an empty folder in its name to be stored as a file; rename the object"
        )
    return folder / relative
