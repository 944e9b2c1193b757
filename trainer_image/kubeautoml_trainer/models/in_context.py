"""A transformer that learns from rows in its input, in place of training: the architecture of TabPFN (Hollmann et al. 2023,
arXiv:2207.01848). Written once for numpy and torch; weights come from a folder.

The folder holds `config.json`, with exactly the members of `Config` and `"format": 1`, and `model.safetensors` with float32
tensors named and shaped as `shapes` says (linear layers as torch has them: outputs x inputs).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from kubeautoml.api.errors import BundleError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_FORMAT = 1
_EPSILON = 1e-5  # of layer norms, as in torch


@dataclass(frozen=True)
class Config:
    """What the network is made of, and what it was trained for.

    features: columns of a row; fewer are filled up with 0, and scaled up by features / used. classes: most it can tell apart; 0
    for none. numbers: 1 if it predicts numbers, else 0. rows: most rows to learn from. width, heads, layers, hidden: of the
    transformer; each head has width / heads numbers.
    """

    features: int
    classes: int
    numbers: int
    rows: int
    width: int
    heads: int
    layers: int
    hidden: int


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors.

    A row's token is feature(x), plus target(y) for rows to learn from, y being the class's index or the standardised number.
    Each layer is attention to the rows to learn from, then two linear layers with GELU between, each added to its input and
    normalised after (post-norm). The head is two linear layers with GELU between.
    """
    w, h = config.width, config.hidden
    found: dict[str, tuple[int, ...]] = _linear("feature", w, config.features) | _linear("target", w, 1)
    for k in range(config.layers):
        found |= _linear(f"layer{k}.query_key_value", 3 * w, w) | _linear(f"layer{k}.attended", w, w)
        found |= _linear(f"layer{k}.up", h, w) | _linear(f"layer{k}.down", w, h)
        found |= {f"layer{k}.norm{n}.{part}": (w,) for n in (1, 2) for part in ("weight", "bias")}
    found |= _linear("head", h, w)
    found |= _linear("class", config.classes, h) if config.classes else {}
    return found | (_linear("number", 1, h) if config.numbers else {})


def _linear(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


@dataclass(frozen=True)
class Operations:
    """What the network needs of an array library beyond operators and indexing.

    softmax: over the last axis. norm: (values, mean 0 and deviation 1 over the last axis).
    """

    einsum: Callable[..., Any]
    softmax: Callable[[Any], Any]
    gelu: Callable[[Any], Any]
    norm: Callable[[Any], Any]


Memory = Sequence[tuple[Any, Any]]
"""Of each layer the keys and values of the rows to learn from, float32 (n, heads, width / heads)."""


def remember(ops: Operations, config: Config, w: Mapping[str, Any], x: Any, y: Any) -> Memory:
    """Read the rows to learn from. x: float32 (n, features). y: float32 (n,)."""
    h = _apply(w, "feature", x) + _apply(w, "target", y[:, None])
    memory = []
    for k in range(config.layers):
        _, keys, values = _query_key_value(config, w, k, h)
        memory.append((keys, values))
        h = _layer(ops, config, w, k, h, keys, values)
    return memory


def answer(ops: Operations, config: Config, w: Mapping[str, Any], memory: Memory, x: Any, head: str) -> Any:
    """Predict rows, each by itself: float32 (n, features) -> (n, classes) logits with head "class", (n, 1) with "number"."""
    h = _apply(w, "feature", x)
    for k, (keys, values) in enumerate(memory):
        h = _layer(ops, config, w, k, h, keys, values)
    return _apply(w, head, ops.gelu(_apply(w, "head", h)))


def _apply(w: Mapping[str, Any], name: str, x: Any) -> Any:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _query_key_value(config: Config, w: Mapping[str, Any], k: int, h: Any) -> tuple[Any, Any, Any]:
    mixed = _apply(w, f"layer{k}.query_key_value", h).reshape(len(h), 3, config.heads, -1)
    return mixed[:, 0], mixed[:, 1], mixed[:, 2]


def _layer(ops: Operations, config: Config, w: Mapping[str, Any], k: int, h: Any, keys: Any, values: Any) -> Any:
    query, _, _ = _query_key_value(config, w, k, h)
    share = ops.softmax(ops.einsum("nhd,mhd->hnm", query, keys) * (query.shape[2] ** -0.5))
    attended = ops.einsum("hnm,mhd->nhd", share, values).reshape(len(h), -1)
    h = _normed(ops, w, f"layer{k}.norm1", h + _apply(w, f"layer{k}.attended", attended))
    more = _apply(w, f"layer{k}.down", ops.gelu(_apply(w, f"layer{k}.up", h)))
    return _normed(ops, w, f"layer{k}.norm2", h + more)


def _normed(ops: Operations, w: Mapping[str, Any], name: str, h: Any) -> Any:
    return ops.norm(h) * w[f"{name}.weight"] + w[f"{name}.bias"]


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def _gelu(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    return np.asarray(x * np.float32(0.5) * (1 + erf(x * np.float32(0.5**0.5))))


def _norm(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + np.float32(_EPSILON)))


def _einsum(how: str, *arrays: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum(how, *arrays, optimize=True))


NUMPY = Operations(_einsum, _softmax, _gelu, _norm)


@dataclass(frozen=True)
class Network:
    """Config and weights, read whole and checked."""

    config: Config
    weights: Mapping[str, np.ndarray]

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        save_file(dict(self.weights), str(folder / WEIGHTS))
        (folder / CONFIG).write_text(json.dumps({"format": _FORMAT} | asdict(self.config)), encoding="utf-8")


def load_network(folder: Path) -> Network:
    """Read a folder of weights.

    Raises:
        BundleError: a file is absent or damaged, the config is not one that this code knows, or a tensor is absent, additional,
            of another shape, or not float32.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    config = _read_config(folder / CONFIG)
    try:
        weights = load_file(str(folder / WEIGHTS))
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{WEIGHTS} cannot be read: {error}") from error
    expected = shapes(config)
    if set(weights) != set(expected):
        odd = sorted(set(weights) ^ set(expected))[0]
        raise BundleError(f"{WEIGHTS} must hold exactly the tensors of its config, {odd!r} is absent or additional")
    for name, array in weights.items():
        if array.shape != expected[name] or array.dtype != np.float32:
            raise BundleError(
                f"{WEIGHTS}: {name} must be float32 {expected[name]}, got {array.dtype} {tuple(array.shape)}"
            )
        if not np.isfinite(array).all():
            raise BundleError(f"{WEIGHTS}: {name} must hold finite numbers only")
    return Network(config, weights)


def _read_config(path: Path) -> Config:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{CONFIG} cannot be read: {error}") from error
    names = [f.name for f in fields(Config)]
    if not isinstance(stored, dict) or stored.pop("format", None) != _FORMAT or set(stored) != set(names):
        raise BundleError(f"{CONFIG} must have format {_FORMAT} and exactly the members {', '.join(names)}")
    if not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in stored.values()):
        raise BundleError(f"{CONFIG}: all members must be whole numbers of 0 or more")
    config = Config(**stored)
    if not (config.features and config.rows and config.width and config.heads and config.hidden):
        raise BundleError(f"{CONFIG}: features, rows, width, heads and hidden must be 1 or more")
    if config.width % config.heads or not (config.classes > 1 or config.numbers):
        raise BundleError(f"{CONFIG}: heads must divide width, and classes must be 2 or more unless numbers is 1")
    return config
