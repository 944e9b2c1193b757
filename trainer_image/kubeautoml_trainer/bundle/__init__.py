"""A saved model: strict, versioned, no pickle."""

from kubeautoml_trainer.bundle.model import Member, Model, load_bundle
from kubeautoml_trainer.bundle.write import write_bundle

__all__ = ["Member", "Model", "load_bundle", "write_bundle"]
