"""The cache of decoded images on a worker's disk: made once, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.data_factories import make_context
from images.image_factories import make_cache, make_folders, make_image_job
from images.image_forms import (
    DIGITS,
    pixels,
    read_images,
)
from kubeautoml_trainer.data.image_cache import ImageCache, Size
from kubeautoml_trainer.data.image_sources import Inline
from kubeautoml_trainer.data.prepare import prepare


def test_a_cache_is_made_once(tmp_path: Path):
    """Later trials, and a container that starts again, never read the files."""
    make_folders(tmp_path / "train", each=6)
    first = read_images(tmp_path, "train/").frame
    stamps = [(p, p.stat()) for p in (tmp_path / "train").rglob("*.png")]
    for path, stat in stamps:
        path.write_bytes(b"\0" * stat.st_size)
        import os

        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    again = read_images(tmp_path, "train/").frame

    assert all((a == b).all() for a, b in zip(pixels(first), pixels(again), strict=True))


def test_half_a_cache_is_not_taken_for_whole(tmp_path: Path):
    """A worker that is killed leaves a folder that nobody looks at; whatever breaks leaves none."""

    class Broken:
        name = "broken"

        def read(self) -> bytes:
            raise RuntimeError("killed")

    cache = make_cache(tmp_path)
    fine = [Inline(d, str(k)) for k, d in enumerate(DIGITS)]
    with pytest.raises(RuntimeError):
        cache.of("key", [*fine, Broken()], Size(12, 12, 1))
    left = [p.name for p in cache.folder.iterdir()]
    whole = cache.of("key", [*fine, Inline(DIGITS[0], "last")], Size(12, 12, 1))

    assert left == []
    assert (whole.array[:30] == np.stack(DIGITS)).all()


def test_what_a_killed_worker_left_is_cleared_away(tmp_path: Path):
    """Its container starts again on the same disk."""
    make_folders(tmp_path / "train")
    context = make_context(make_image_job(tmp_path), tmp_path)
    left = context.scratch_dir / "images" / ".partial-x"
    left.mkdir(parents=True)
    (left / "pixels.bin").write_bytes(b"half")

    prepare(context)

    (kept,) = (context.scratch_dir / "images").iterdir()
    assert {p.name for p in kept.iterdir()} == {"pixels.bin", "digests.bin", "facts.json"}


def test_progress_is_told(tmp_path: Path):
    """Images done, of how many; the last time when all are."""
    told: list[tuple[int, int]] = []
    cache = ImageCache(tmp_path, told=lambda done, of: told.append((done, of)))

    cache.of("key", [Inline(d, "x") for d in DIGITS])

    assert told[-1] == (30, 30)
