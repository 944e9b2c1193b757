"""From typed rows to what models take: fitted on training rows only, saved as JSON and safetensors."""

from kubeautoml_trainer.features.base import Encoded, Recipe
from kubeautoml_trainer.features.fit import fit_features
from kubeautoml_trainer.features.fitted import Features
from kubeautoml_trainer.features.stored import load_features

__all__ = ["Encoded", "Features", "Recipe", "fit_features", "load_features"]
