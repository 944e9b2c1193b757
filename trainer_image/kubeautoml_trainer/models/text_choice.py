"""How a table's family reads columns of texts where a job names a sentence encoder: by their terms alone, or by its numbers, too."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from kubeautoml.api.errors import UsageError
from kubeautoml_trainer.features.encoders import encoder_of_job
from kubeautoml_trainer.models.base import DataShape
from kubeautoml_trainer.models.space import Choice, Parameters

TEXTS, TERMS, EMBEDDINGS = "texts", "terms", "embeddings"
NUMBERS = 64
"""Of an encoder, those in which the texts differ most; trees have no use for more of them."""


def text_choice(shape: DataShape) -> dict[str, Choice]:
    """The parameter, where there is something to choose."""
    return {TEXTS: Choice((TERMS, EMBEDDINGS))} if shape.encodes_texts and shape.texts else {}


def with_embeddings(shape: DataShape, rank: int, parameters: Parameters) -> tuple[tuple[int, Parameters], ...]:
    """An entry of a portfolio that reads by the encoder, where there is one."""
    return ((rank, {**parameters, TEXTS: EMBEDDINGS}),) if text_choice(shape) else ()


def embeds(parameters: Mapping[str, Any]) -> bool:
    """Whether a pipeline with these parameters reads by the encoder."""
    return parameters.get(TEXTS) == EMBEDDINGS


def taken_recipe(settings: MutableMapping[str, Any]) -> dict[str, Any]:
    """Members of a recipe, for what the settings say; the parameter is taken out of them.

    Raises:
        UsageError: they ask for an encoder, and the job names none.
    """
    if settings.pop(TEXTS, TERMS) != EMBEDDINGS:
        return {}
    encoder = encoder_of_job()
    if encoder is None:
        raise UsageError("texts: embeddings needs weights of a TextEncoder; name them in spec.search.pretrained")
    return {"encoder": encoder.sha256, "encoder_numbers": NUMBERS}
