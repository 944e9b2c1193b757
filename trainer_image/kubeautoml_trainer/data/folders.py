"""What forms of data that are a folder a class have in common."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import numpy as np

from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import DataError
from kubeautoml.storage import StoredObject


def suffixes_of(objects: Sequence[StoredObject]) -> str:
    """How the files that are there end, in words, a few of them."""
    return ", ".join(sorted({posixpath.splitext(o.uri)[1] or "no suffix" for o in objects})[:5]) or "nothing"


def below(uri: str, root: str) -> str:
    """The path of an object below a root that ends in "/"."""
    path = uri.removeprefix(root)
    return unquote(path) if uri.startswith("file://") else path


def classes_of_folders(paths: Sequence[str], root: str, target: str, what: str, example: str) -> np.ndarray:
    """The folder right below the root in which each file lies, object (n,).

    Args:
        what: such as "images". example: such as "cat/1.jpg".

    Raises:
        DataError: some lie in none.
    """
    loose = [p for p in paths if "/" not in p]
    if loose:
        raise DataError(
            f"{what} below {root} must lie in folders that are named by their '{target}', such as {root}{example}, "
            f"but {len(loose)} of {len(paths)} lie in none, such as {loose[0]}; or give a table with columns for "
            f"{'path' if what == 'images' else 'text'} and '{target}'",
            reason=Reason.TARGET_NOT_FOUND,
        )
    return objects_of([p.split("/", 1)[0] for p in paths])


def objects_of(values: Sequence[Any]) -> np.ndarray:
    """object (n,): numpy would look into what it can look into."""
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out
