"""Texts as the numbers of their tokens, by the file that the tokenizers library writes; no torch, no transformers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kubeautoml.api.errors import BundleError

TOKENIZER = "tokenizer.json"
_CHARACTERS = 16  # of a text, for each token that is read; a guess that bounds the time of a long one


class Tokens:
    """Cuts texts into tokens.

    Args:
        path: of `tokenizer.json`. most: tokens that are read of a text, the marks of its beginning and end among them.
    """

    def __init__(self, path: Path, most: int) -> None:
        self.path, self.most = path, most

    def of(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int64 (tokens,) of each text; a text may have none.

        Raises:
            BundleError: the file is damaged.
        """
        short = [text[: self.most * _CHARACTERS] for text in texts]
        return [np.array(e.ids, dtype=np.int64) for e in self._tokenizer.encode_batch(short)]

    def open(self) -> None:
        """Read the file now, so that the first text takes no longer than the others."""
        _ = self._tokenizer

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(self.path))
        except Exception as error:  # whatever it raises, the file is damaged
            raise BundleError(f"{self.path.name} cannot be read: {str(error)[:200]}") from error
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.most)
        return tokenizer


def by_length(ids: Sequence[np.ndarray]) -> list[tuple[int, np.ndarray]]:
    """(tokens, positions of the texts with so many), shorter ones first. Texts of as many tokens go through a network together: none is
    filled up, so that none depends on its neighbours.
    """
    lengths = np.array([len(one) for one in ids], dtype=np.int64)
    return [(int(length), np.flatnonzero(lengths == length)) for length in np.unique(lengths)]
