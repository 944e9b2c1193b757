"""What a job, or a model, wants to see in the rows that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.pod import PodJob
from kubeautoml_trainer.data.base import Schema
from kubeautoml_trainer.data.image_cache import Size, sizes_of
from kubeautoml_trainer.data.image_sources import IMAGE
from kubeautoml_trainer.data.text_folder import TEXT
from kubeautoml_trainer.tasks import POINT


@dataclass(frozen=True)
class Asked:
    """What a job, or a model, wants to see in its rows.

    target: what a folder's names, or a shard's labels, are; None where there are none to be. images: columns that must hold images, with
    the size of each where it is settled. others: columns that are something else, and are not looked at. of_images: whether file names
    mean images even if the files are not there. is_test: of arrays for training and test, the test ones are meant. image: what the column
    of images is called where files have no header. skips: whether a few rows may be left out whose images cannot be read.
    only: whether no other columns than `images` are looked at.
    of_texts: whether many .txt files are a text each. text: what the column of these is called.
    """

    target: str | None = None
    images: Mapping[str, Size | None] = field(default_factory=dict)
    others: frozenset[str] = frozenset()
    of_images: bool = False
    is_test: bool = False
    image: str = IMAGE
    skips: bool = True
    only: bool = False
    of_texts: bool = False
    text: str = TEXT


def asked_by_job(job: PodJob) -> Asked:
    """What the training rows of a job are read with."""
    columns, split = job.dataset.columns, job.dataset.split
    others = {n for n, t in columns.types.items() if t is not ColumnType.IMAGE}
    named = (job.task.target, columns.weight, split.group_column, split.time_column, *columns.ignore)
    return Asked(
        target=job.task.target,
        images={n: None for n, t in columns.types.items() if t is ColumnType.IMAGE},
        others=frozenset(others | {n for n in named if n}),
        of_images=POINT.get(job.task.type) is ColumnType.IMAGE,
        of_texts=POINT.get(job.task.type) is ColumnType.TEXT,
    )


def asked_of_test(train: pd.DataFrame, job: PodJob) -> Asked:
    """What test rows are read with: their images as those of the training rows."""
    sizes = sizes_of(train)
    others = frozenset(str(c) for c in train.columns if c not in sizes)
    of_texts = POINT.get(job.task.type) is ColumnType.TEXT
    return Asked(target=job.task.target, images=sizes, others=others, is_test=True, of_texts=of_texts)


def asked_by_schema(schema: Schema) -> Asked:
    """What rows for a model are read with; every other column than its images is left as it is."""
    sizes = {
        c.name: Size(c.height, c.width, c.channels)
        for c in schema.features
        if c.type is ColumnType.IMAGE and c.height and c.width and c.channels
    }
    image = next(iter(sizes)) if len(sizes) == 1 else IMAGE
    texts = [c.name for c in schema.features if c.type is ColumnType.TEXT]
    text = texts[0] if len(texts) == 1 else TEXT
    is_one_text = len(texts) == len(schema.features) == 1
    return Asked(images=sizes, is_test=True, image=image, skips=False, only=True, of_texts=is_one_text, text=text)
