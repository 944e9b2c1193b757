"""How a job looks for the best model."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from kubeautoml.api.dataset import Uri
from kubeautoml.api.values import ApiModel, CamelName, DecimalString, LocalRef

SHA256_PATTERN = r"^[0-9a-f]{64}$"


class Preset(StrEnum):
    """How much to try."""

    FAST = "Fast"
    BALANCED = "Balanced"
    BEST = "Best"
    INTERPRETABLE = "Interpretable"


class SamplerType(StrEnum):
    """Who proposes hyperparameters."""

    AUTO = "Auto"
    TPE = "Tpe"
    GP = "Gp"
    CMA_ES = "CmaEs"
    EVOLUTIONARY = "Evolutionary"
    RANDOM = "Random"
    GRID = "Grid"


class PrunerType(StrEnum):
    """Who stops hopeless trials early."""

    AUTO = "Auto"
    NONE = "None"
    MEDIAN = "Median"
    WILCOXON = "Wilcoxon"
    HYPERBAND = "Hyperband"


class Sampler(ApiModel):
    """The optimiser."""

    type: SamplerType = SamplerType.AUTO
    """Auto, Tpe (Bayesian), Gp (Bayesian, few trials), CmaEs, Evolutionary, Random or Grid."""
    population: Annotated[int, Field(ge=2, le=1000)] = 50
    """Evolutionary: pipelines that children come from."""
    generations: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Evolutionary: the search ends when population x (generations + 1) trials are done; absent: only the budget ends it."""


class Pruner(ApiModel):
    """Early stopping of trials."""

    type: PrunerType = PrunerType.AUTO
    """Auto, None, Median, Wilcoxon (over folds) or Hyperband."""


class Families(ApiModel):
    """Which model families take part."""

    include: list[CamelName] = Field(default_factory=list, max_length=64)
    """Only these, such as [LightGBM, Linear]; empty means all."""
    exclude: list[CamelName] = Field(default_factory=list, max_length=64)
    """Never these."""


class FloatRange(ApiModel):
    """A real number between two bounds."""

    min: DecimalString
    """Smallest value."""
    max: DecimalString
    """Largest value."""
    log: bool = False
    """Search the logarithm; min must then be above 0. False when left out."""


class IntRange(ApiModel):
    """A whole number between two bounds."""

    min: int
    """Smallest value."""
    max: int
    """Largest value."""
    step: Annotated[int, Field(ge=1)] = 1
    """Distance between values; 1 when left out."""
    log: bool = False
    """Search the logarithm; min must then be at least 1. False when left out."""


class Choices(ApiModel):
    """One of a list."""

    choices: list[Annotated[str, StringConstraints(max_length=128)]] = Field(min_length=1, max_length=64)
    """Values as text; converted to the parameter's own type."""


class Parameter(ApiModel):
    """The user's own range for one hyperparameter of a family; exactly one of float, int and categorical is set."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    """Name of the hyperparameter, such as learning_rate."""
    when: dict[str, str] = Field(min_length=1, max_length=8)
    """Where it applies: {family: LightGBM}, and optionally other parameters of that family with the value they must have."""
    float: FloatRange | None = None
    """A real number."""
    int: IntRange | None = None
    """A whole number."""
    categorical: Choices | None = None
    """One of a list."""

    @model_validator(mode="after")
    def _exactly_one_kind(self) -> Self:
        given = [k for k in ("float", "int", "categorical") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of float, int and categorical must be set, got {given or 'none'}")
        if "family" not in self.when:
            raise ValueError("when must name the family, such as {family: LightGBM}")
        return self


class Pretrained(ApiModel):
    """Weights of a pretrained model that a family uses. They are never taken from anywhere else."""

    family: CamelName
    """Family that uses them, such as TabularFoundation."""
    uri: Uri
    """A file, or a folder when it ends in "/"; read with the credentials of dataset.train.secretRef."""
    sha256: Annotated[str, StringConstraints(pattern=SHA256_PATTERN)]
    """SHA-256 of the file, in lower-case hexadecimal digits. Of a folder that of its list of digests:
    cd FOLDER && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum. What does not match ends the job before
    the first trial."""


class Search(ApiModel):
    """How the best model is looked for."""

    preset: Preset = Preset.BALANCED
    """Fast, Balanced, Best, or Interpretable (only models a person can read)."""
    sampler: Sampler = Field(default_factory=Sampler)
    """The optimiser."""
    pruner: Pruner = Field(default_factory=Pruner)
    """Early stopping of trials."""
    families: Families = Field(default_factory=Families)
    """Which model families take part."""
    parameters: list[Parameter] = Field(default_factory=list, max_length=64)
    """The user's own ranges."""
    warm_start_from: list[LocalRef] = Field(default_factory=list, max_length=8)
    """Earlier AutoMLJobs of this namespace whose best trials are tried first."""
    pretrained: list[Pretrained] = Field(default_factory=list, max_length=16)
    """Weights for the families that need some; such a family takes part only when it is named here."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 42
    """Seed of splits, models and samplers."""
