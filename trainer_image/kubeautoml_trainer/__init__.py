"""The trainer: data to bundle. In a notebook: `load_model(uri)`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from kubeautoml_trainer.bundle import Model


def load_model(uri: str | Path, *, credentials_dir: Path | None = None, sha256: str | None = None) -> Model:
    """Load a trained model from a folder, a file:// or an s3:// URI; the `serve` extra is enough.

    >>> model = load_model("s3://models/team-a/.../model")  # doctest: +SKIP
    >>> model.predict_proba(frame)  # doctest: +SKIP

    Args:
        credentials_dir: folder with AWS_ACCESS_KEY_ID and so on, a file each; default: boto3's own chain.
        sha256: digest that `bundle.json` must have.

    Raises:
        BundleError: the model is damaged, foreign, or newer than this code.
        StorageError: it cannot be read.
    """
    from kubeautoml_trainer.bundle import load_bundle

    return load_bundle(uri, credentials_dir, sha256)
