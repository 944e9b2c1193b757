"""What networks that predict with numpy share: a product, and their files: what it is made of as JSON, its weights as safetensors,
and its target.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.models.target import NumberTarget, load_target, save_target

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Architecture = TypeVar("Architecture", bound=DataclassInstance)


def per_column(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """(n, k, a), (k, a, b) -> (n, k, b): a matrix product for each k, several times as fast as an einsum."""
    return np.asarray(np.matmul(x.transpose(1, 0, 2), w).transpose(1, 0, 2))


def save_network(
    folder: Path, stem: str, net: DataclassInstance, weights: Mapping[str, np.ndarray], target: NumberTarget | None
) -> None:
    """Write `stem`.json and `stem`.safetensors, and the target."""
    from safetensors.numpy import save_file

    save_file(dict(weights), str(folder / f"{stem}.safetensors"))
    (folder / f"{stem}.json").write_text(json.dumps(asdict(net)), encoding="utf-8")
    save_target(target, folder)


def load_network(
    folder: Path, stem: str, kind: type[Architecture]
) -> tuple[Architecture, Mapping[str, np.ndarray], NumberTarget | None]:
    """Read what `save_network` wrote.

    Args:
        kind: of the architecture, a dataclass whose fields are numbers, words and tuples.

    Raises:
        BundleError: absent or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    weights = folder / f"{stem}.safetensors"
    try:
        stored = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
        net = kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()})
        return net, load_file(str(weights)), load_target(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise BundleError(f"{weights} cannot be read: {error!r}") from error
