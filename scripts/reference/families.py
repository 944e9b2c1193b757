"""Every model family: what data it is for, and what the search may choose, from the families themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from scripts.reference.markdown import MADE_OF, code, link, table

from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.models import (
    EVERY_FAMILY,
    FAMILIES,
    PICTURE_FAMILIES,
    PRETRAINED_FAMILIES,
    QUANTILE_FAMILIES,
    TEXT_FAMILIES,
)
from kubeautoml_trainer.models.base import DataShape, Family
from kubeautoml_trainer.models.space import Choice, Float, Int
from kubeautoml_trainer.tasks import SUITED

TABLE = DataShape(
    task=TaskType.TABULAR_CLASSIFICATION, rows=2000, features=20, categories=5, texts=0, outputs=2, balance=1.0
)
"""The table for which spaces are shown."""

SHAPES = {
    "texts": replace(TABLE, task=TaskType.TEXT_CLASSIFICATION, features=1, categories=0, texts=1),
    "images": replace(
        TABLE, task=TaskType.IMAGE_CLASSIFICATION, features=1, categories=0, images=1, side=64, channels=3
    ),
}
MOST = 10**7
"""Rows, or classes, beyond which a limit is none."""

WORDS = {
    "Dummy": "The constant prediction: what any model must beat.",
    "Linear": "Logistic regression and ridge, over scaled numbers, one-hot categories and the words of texts.",
    "NaiveBayesSvm": "A linear model in which each word counts by how much more often it stands in one class than in the others.",
    "LightGBM": "Boosted trees by histogram; the best quality a second on most tables.",
    "CatBoost": "Boosted symmetric trees that take categories as they are; strong by default, and slow.",
    "XGBoost": "Boosted trees by histogram; a second opinion.",
    "ExtraTrees": "Some hundred trees with thresholds drawn at random.",
    "RandomForest": "Some hundred trees on rows drawn at random.",
    "GradientBoosting": "Boosted trees with exact thresholds, for small tables.",
    "SupportVectors": "Support vectors with a radial kernel, for small tables.",
    "GaussianProcess": "A smooth function with a length a column, for very small tables.",
    "NeuralNetwork": "A multilayer perceptron (after RealMLP).",
    "TabM": "32 perceptrons in one that share most of their weights.",
    "NearestNeighbors": "A row is like the rows around it.",
    "ExplainableBoosting": "Boosted trees of one column or two, so that the model is a curve a column that a person can read.",
    "ConvNet": "A small residual network for images, from scratch; its architecture is searched.",
    "TextNet": "A small network for texts, from scratch: learned vectors of words, or convolutions over characters.",
    "TabularFoundation": "A pretrained network that reads the training rows as its input.",
    "ImageEncoder": "A pretrained vision backbone with a head; frozen first, then fine-tuned.",
    "TextEncoder": "A pretrained sentence encoder: as it is, with a linear model on top, or fine-tuned.",
}
"""What each is, in a line."""


def families_page() -> str:
    """docs/reference/families.md."""
    every: tuple[Family, ...] = (*EVERY_FAMILY, *PRETRAINED_FAMILIES)
    rows = [
        (
            link(f"`{f.name}`", f.name),
            WORDS[f.name],
            _data(f),
            "yes" if f.interpretable else "",
            "yes" if f.name in QUANTILE_FAMILIES else "",
        )
        for f in every
    ]
    parts = [
        f"# Model families\n\n{MADE_OF.format(source='`kubeautoml_trainer.models`')}\n\n"
        "A family is one way to learn. The search tries those that suit the data; `spec.search.families` narrows them by `include` and"
        " `exclude`. What does not fit the data is left out by itself, and where it was named in `include` the job says so."
        " Families of your own: [trainer_image](../../trainer_image/README.md).\n\n",
        table(("family", "what it is", "takes part", "a person can read it", "quantiles"), rows),
        "\n`preset: Interpretable` takes those that a person can read. Rows are those of one fit, on a table of 20 columns.\n",
        "\n## By task\n\n",
        table(
            ("task", "families"),
            [(f"`{t.value}`", ", ".join(f"`{name}`" for name in _suited(t))) for t in TaskType],
        ),
        "\n## Search spaces\n\nWhat a trial may choose on a table of 2,000 rows, 20 columns (5 of them categories) and two classes; of"
        " families for images, on colour images of 64 pixels. Some ranges grow or shrink with the data. `spec.search.parameters` puts your"
        " own range in the place of one, by the name shown here.\n",
    ]
    parts += [_space(f) for f in every]
    return "".join(parts)


def _suited(task: TaskType) -> tuple[str, ...]:
    return SUITED.get(task) or tuple(f.name for f in FAMILIES if f.fits(replace(TABLE, task=task)))


def _data(family: Family) -> str:
    if family.name in {f.name for f in PRETRAINED_FAMILIES}:
        return "with weights that `search.pretrained` names"
    shape = _shape(family)
    words = []
    if family in PICTURE_FAMILIES:
        words.append("one column of images")
    if not family.fits(TABLE) and family.fits(SHAPES["texts"]):
        words.append("a text column")
    least = next(_limits(lambda n: family.fits(replace(shape, rows=n)), rising=True), 1)
    most = next(_limits(lambda n: family.fits(replace(shape, rows=max(least, n))), rising=False), MOST)
    classes = next(_limits(lambda n: family.fits(replace(shape, outputs=n)), rising=False), MOST)
    words += [f"from {least:,} rows"] * (least > 1) + [f"up to {most:,} rows"] * (most < MOST)
    words += [f"up to {classes:,} classes"] * (classes < MOST)
    return ", ".join(words) or "always"


def _limits(holds: Callable[[int], bool], *, rising: bool) -> Iterator[int]:
    """The first number for which something holds (rising), or the last; nothing where it holds for all."""
    if holds(1 if rising else MOST):
        return
    low, high = 1, MOST if not rising else TABLE.rows
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) is rising else (middle, high)
    yield high if rising else low


def _shape(family: Family) -> DataShape:
    if family.name in ("ConvNet", "ImageEncoder"):
        return SHAPES["images"]
    if family in TEXT_FAMILIES or family.name in ("NaiveBayesSvm", "TextEncoder"):
        return SHAPES["texts"]
    return TABLE


def _space(family: Family) -> str:
    space = family.space(_shape(family))
    text = f"\n### {family.name}\n\n"
    if not space:
        return text + "Nothing to choose.\n"
    rows = [
        (code(name), _range(spec), ", ".join(f"`{k}: {v}`" for k, v in spec.when.items()))
        for name, spec in space.items()
    ]
    return text + table(("parameter", "what it may be", "where"), rows)


def _range(spec: Float | Int | Choice) -> str:
    if isinstance(spec, Choice):
        return " or ".join(code(_value(v)) for v in spec.choices)
    kind = "whole number" if isinstance(spec, Int) else "number"
    words = [f"{kind} from {_value(spec.low)} to {_value(spec.high)}"]
    words += ["on a log scale"] * spec.log
    if isinstance(spec, Int) and spec.step > 1:
        words.append(f"in steps of {spec.step}")
    return ", ".join(words)


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
