"""Boosters in their libraries' own formats, compressed: a quarter to a ninth of the bytes, and a tenth of a second for the largest."""

from __future__ import annotations

from pathlib import Path

import zstandard

from kubeautoml.api.errors import BundleError

_LEVEL = 3  # higher ones take several times as long for a tenth less


def write_packed(file: Path, raw: bytes) -> None:
    file.write_bytes(zstandard.ZstdCompressor(level=_LEVEL).compress(raw))


def read_packed(file: Path) -> bytes:
    """What `write_packed` wrote.

    Raises:
        BundleError: absent or damaged.
    """
    try:
        return zstandard.ZstdDecompressor().decompress(file.read_bytes())
    except (OSError, zstandard.ZstdError) as error:
        raise BundleError(f"{file} cannot be read: {error}") from error
