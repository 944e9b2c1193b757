"""Fitted features as files: `features.json` for what is said in words and single numbers, `features.safetensors` for
longer arrays. Both keep every bit.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.features.arithmetic import Arithmetic
from kubeautoml_trainer.features.base import Recipe
from kubeautoml_trainer.features.categories import Frequencies, Levels
from kubeautoml_trainer.features.char_grams import Grams
from kubeautoml_trainer.features.crosses import Crosses
from kubeautoml_trainer.features.encoders import Embedding, look_in
from kubeautoml_trainer.features.fitted import Features
from kubeautoml_trainer.features.groups import Groups
from kubeautoml_trainer.features.images import ImageFeatures
from kubeautoml_trainer.features.numbers import Scaling
from kubeautoml_trainer.features.target_means import TargetMeans
from kubeautoml_trainer.features.texts import Text

FORMAT = 3
_SHORT = 8  # finite numbers that stand in the JSON: most models then are one small file
_JSON, _ARRAYS = "features.json", "features.safetensors"
_KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        Features,
        Grams,
        Recipe,
        Levels,
        Frequencies,
        Text,
        Embedding,
        ImageFeatures,
        TargetMeans,
        Crosses,
        Arithmetic,
        Groups,
        Scaling,
    )
}


def save_features(features: Features, folder: Path) -> None:
    """Write into the folder."""
    from safetensors.numpy import save_file

    arrays: dict[str, np.ndarray] = {}
    body = {"format": FORMAT, "features": _written(features, "", arrays)}
    text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    (folder / _JSON).write_text(text, encoding="utf-8")
    if arrays:
        save_file(arrays, str(folder / _ARRAYS))


def load_features(folder: Path) -> Features:
    """Read what `save_features` wrote.

    Raises:
        BundleError: absent, damaged, or written by another version.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        stored = json.loads((folder / _JSON).read_text(encoding="utf-8"))
        if stored["format"] != FORMAT:
            newer = isinstance(stored["format"], int) and stored["format"] > FORMAT
            hint = "upgrade kubeautoml" if newer else "it is of an earlier kubeautoml: use that, or train again"
            raise BundleError(f"{_JSON}: format must be {FORMAT}, got {stored['format']!r}; {hint}")
        arrays = load_file(str(folder / _ARRAYS)) if (folder / _ARRAYS).exists() else {}
        features = _read(stored["features"], arrays)
        if not isinstance(features, Features):
            raise ValueError(f"{type(features).__name__} instead of Features")
        # in a bundle the pipelines' folders stand beside the encoders'
        look_in(folder.parent.parent, [e.sha256 for e in features.embeddings])
        return features
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BundleError(f"{_JSON} cannot be read: {error!r}; the model is damaged, train it again") from error


def encoders_of(folder: Path) -> tuple[str, ...]:
    """Digests of the encoders that stored features read by; none where the folder holds no features."""
    if not (folder / _JSON).exists():
        return ()
    stored = json.loads((folder / _JSON).read_text(encoding="utf-8"))
    return tuple(e["sha256"] for e in stored["features"].get("embeddings", []))


def _written(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """JSON of a value; its longer arrays go to `arrays` by the path to them."""
    if isinstance(value, np.ndarray):
        if value.ndim == 1 and value.size <= _SHORT and np.isfinite(value).all():
            return {"values": value.tolist(), "dtype": value.dtype.name}
        arrays[path] = np.ascontiguousarray(value)
        return {"array": path}
    if isinstance(value, tuple):
        return [_written(v, f"{path}.{k}", arrays) for k, v in enumerate(value)]
    if is_dataclass(value):
        body = {f.name: _written(getattr(value, f.name), f"{path}.{f.name}".lstrip("."), arrays) for f in fields(value)}
        return {"is": type(value).__name__, **body}
    return value


def _read(stored: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(stored, list):
        return tuple(_read(v, arrays) for v in stored)
    if not isinstance(stored, dict):
        return stored
    if set(stored) == {"array"}:
        return arrays[stored["array"]]
    if set(stored) == {"values", "dtype"}:
        return np.array(stored["values"], dtype=np.dtype(stored["dtype"]))
    kind = _KINDS[stored["is"]]
    given = set(stored) - {"is"}
    # what an earlier version did not have yet takes its default, which means the same
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    if not needed <= given <= {f.name for f in fields(kind)}:
        raise ValueError(f"{stored['is']} has the members {sorted(given)}")
    return kind(**{name: _read(v, arrays) for name, v in stored.items() if name != "is"})
