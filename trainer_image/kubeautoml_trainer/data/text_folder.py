"""A folder a class of text files, one file a row, to a raw frame."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pandas as pd

from kubeautoml.api.conditions import Reason
from kubeautoml.api.errors import DataError
from kubeautoml.storage import ObjectStore, StoredObject
from kubeautoml_trainer.data.folders import below, classes_of_folders, objects_of, suffixes_of
from kubeautoml_trainer.data.read import DECOMPRESS, decompressed, undecodable

TEXT = "text"
"""Name of the column."""
SUFFIX = ".txt"
FETCHERS = 16
"""Files that are read at once: what counts is that a bucket is asked for several; a guess."""
MOST_ZEROS = 0.01
"""Share of zero bytes from which on a file is no text in UTF-8; below it they count as blanks, as old mail systems left them."""


def is_text_name(name: str) -> bool:
    """Whether a file is one text, by its name."""
    for suffix in DECOMPRESS:
        name = name.removesuffix(suffix)
    return name.lower().endswith(SUFFIX)


def text_folder_frame(
    objects: Sequence[StoredObject], root: str, target: str | None, store: ObjectStore, text: str = TEXT
) -> pd.DataFrame:
    """Column `text`, and the target: the folder right below the root in which a file lies. Files without a text are rows without one.

    Args:
        root: URI that ends in "/".
        target: name for the column of folders; None where there is none to be.
        text: name for the column of texts.

    Raises:
        DataError: there are no text files, some lie in no folder although they must, or one is no text; names it, and the byte.
        StorageError: the storage refuses or does not answer.
    """
    found = [o for o in objects if is_text_name(o.uri)]
    if not found:
        raise DataError(
            f"there is no text file below {root} (files end in {suffixes_of(objects)}); texts end in {SUFFIX}, also compressed",
            reason=Reason.DATASET_EMPTY,
        )
    if target == text:
        raise DataError(
            f"spec.task.target: '{target}' is the name of the texts' own column; choose another, such as 'label'",
            reason=Reason.TARGET_UNUSABLE,
        )
    paths = [below(o.uri, root) for o in found]
    classes = None if target is None else classes_of_folders(paths, root, target, "texts", "spam/1.txt")
    with ThreadPoolExecutor(FETCHERS) as pool:
        texts = list(pool.map(lambda o: decoded(store.read(o.uri), o.uri), found))
    frame = pd.DataFrame({text: objects_of(texts)})
    return frame if target is None else frame.assign(**{target: classes})


def decoded(data: bytes, name: str) -> str | None:
    """The text of a file: UTF-8, or UTF-16 that says so in its first bytes; None where there is none.

    Raises:
        DataError: neither; names the byte and the line.
    """
    _, data = decompressed(data, name)
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    zero = data.find(b"\0") if encoding == "utf-8" else -1
    if zero >= 0 and data.count(b"\0") > MOST_ZEROS * len(data):
        raise DataError(
            f"{name} must be UTF-8 text, but byte {zero} is zero, and many more are; if it is UTF-16, convert it, for example with: "
            "iconv -f utf-16 -t utf-8",
            reason=Reason.DATASET_UNREADABLE,
        )
    try:
        text = data.decode(encoding).removeprefix("\ufeff").replace("\0", " ")
    except UnicodeDecodeError as error:
        raise undecodable(data, name, encoding, error) from error
    return text if text.strip() else None
