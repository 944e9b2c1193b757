"""A saved model: strict, versioned, no pickle."""

from kubeautoml_trainer.bundle.load import load_bundle
from kubeautoml_trainer.bundle.model import Model
from kubeautoml_trainer.bundle.write import (
    MemberFiles,
    SecondFiles,
    VariantFiles,
    bundle_size,
    save_member,
    write_bundle,
)

__all__ = [
    "MemberFiles",
    "Model",
    "SecondFiles",
    "VariantFiles",
    "bundle_size",
    "load_bundle",
    "save_member",
    "write_bundle",
]
