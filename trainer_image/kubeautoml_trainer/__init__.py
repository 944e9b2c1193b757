"""The trainer: data to bundle. See README.md for the map of the house."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubeautoml_trainer.bundle import Model

__all__ = ["load_model"]


def load_model(
    uri: str | Path, credentials_dir: Path | None = None, sha256: str | None = None, variant: str | None = None
) -> Model:
    """Load a model that a job trained; see `bundle.load_bundle` for arguments and errors.

    It works with the `serve` extra alone:

        model = load_model("s3://models/team-a/team-a/churn/<uid>/model")
        model.predict(frame), model.predict_proba(frame), model.classes, model.schema, model.card
        load_model(uri, variant="Fast")    # one of model.variants; else the first
    """
    from kubeautoml_trainer.bundle import load_bundle  # numpy and pandas only when a model is wanted

    return load_bundle(uri, credentials_dir, sha256, variant)
