"""Model families, one a file, in plain sight."""

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from kubeautoml.api.errors import UsageError
from kubeautoml_trainer.models.base import Family
from kubeautoml_trainer.models.catboost import CatBoost
from kubeautoml_trainer.models.conv_net import ConvNet
from kubeautoml_trainer.models.dummy import Dummy
from kubeautoml_trainer.models.explainable_boosting import ExplainableBoosting
from kubeautoml_trainer.models.extra_trees import ExtraTrees
from kubeautoml_trainer.models.gaussian_process import GaussianProcess
from kubeautoml_trainer.models.gradient_boosting import GradientBoosting
from kubeautoml_trainer.models.image_encoder import ImageEncoder
from kubeautoml_trainer.models.lightgbm import LightGBM
from kubeautoml_trainer.models.linear import Linear
from kubeautoml_trainer.models.naive_bayes_svm import NaiveBayesSvm
from kubeautoml_trainer.models.nearest_neighbors import NearestNeighbors
from kubeautoml_trainer.models.neural_network import NeuralNetwork
from kubeautoml_trainer.models.own import GROUP, families_of
from kubeautoml_trainer.models.random_forest import RandomForest
from kubeautoml_trainer.models.support_vectors import SupportVectors
from kubeautoml_trainer.models.tabm import TabM
from kubeautoml_trainer.models.tabular_foundation import TabularFoundation
from kubeautoml_trainer.models.text_encoder import TextEncoder
from kubeautoml_trainer.models.text_net import TextNet
from kubeautoml_trainer.models.xgboost import XGBoost

FAMILIES: tuple[Family, ...] = (
    Dummy(),
    Linear(),
    NaiveBayesSvm(),
    LightGBM(),
    CatBoost(),
    XGBoost(),
    ExtraTrees(),
    RandomForest(),
    GradientBoosting(),
    SupportVectors(),
    GaussianProcess(),
    NeuralNetwork(),
    TabM(),
    NearestNeighbors(),
    ExplainableBoosting(),
)
"""Families for any table."""

PICTURE_FAMILIES: tuple[Family, ...] = (ConvNet(),)
"""Families that need a column of pictures."""

TEXT_FAMILIES: tuple[Family, ...] = (TextNet(),)
"""Families that need a column of texts."""

EVERY_FAMILY: tuple[Family, ...] = (*FAMILIES, *PICTURE_FAMILIES, *TEXT_FAMILIES)
"""All that need no weights."""


class PretrainedFamily(Family, Protocol):
    """A family that needs weights."""

    def bound(self, folder: Path) -> Family:
        """With the weights of a folder.

        Raises:
            BundleError: they are not what the family can use.
        """
        ...


QUANTILE_FAMILIES = (
    "Dummy", "Linear", "LightGBM", "CatBoost", "XGBoost", "ExtraTrees", "RandomForest", "NeuralNetwork", "TabM",
    "ConvNet", "ImageEncoder",
)  # fmt: skip
"""Families that can predict quantiles of a number; no other is tried when a job asks for them."""


PRETRAINED_FAMILIES: tuple[PretrainedFamily, ...] = (TabularFoundation(), ImageEncoder(), TextEncoder())
"""Families that take part only with weights that a job names."""

SHARED_WEIGHTS = ("TextEncoder",)
"""Those whose weights stand once in a bundle: pipelines, also of other families, name them and hold no copy."""


def bound_families(weights: Mapping[str, Path]) -> tuple[Family, ...]:
    """The families that can use these weights: file or folder by family name.

    Raises:
        BundleError: a family cannot use what is there; says what is wrong with the files.
    """
    return tuple(f.bound(weights[f.name]) for f in PRETRAINED_FAMILIES if f.name in weights)


@cache
def own_families() -> tuple[Family, ...]:
    """The families of other installed packages; see `models/own.py`. Looked for once a process.

    Raises:
        UsageError: one of them cannot be used; says which package's.
    """
    return families_of(entry_points(group=GROUP), {f.name for f in (*EVERY_FAMILY, *PRETRAINED_FAMILIES)})


def family_named(name: str) -> Family:
    """The family of that name; without weights if it needs some.

    Raises:
        UsageError: there is none, or it is another package's and cannot be used.
    """
    ours: dict[str, Family] = {f.name: f for f in (*EVERY_FAMILY, *PRETRAINED_FAMILIES)}
    if name in ours:  # others are looked for only where it matters: a broken package spoils nothing else
        return ours[name]
    others = {f.name: f for f in own_families()}
    if name in others:
        return others[name]
    raise UsageError(
        f"model family must be one of {', '.join([*ours, *others])}, got {name!r}; "
        "if it is of another package, install that package here too"
    )


def family_as_fitted(name: str, folder: Callable[[], Path]) -> Family:
    """The family that saved a pipeline, able to fit again.

    Args:
        folder: gives that of the pipeline, which holds the weights too; asked only where the family needs some.

    Raises:
        UsageError: there is none.
        BundleError: its weights are damaged.
    """
    needs_weights = name in {f.name for f in PRETRAINED_FAMILIES}
    return bound_families({name: folder()})[0] if needs_weights else family_named(name)
