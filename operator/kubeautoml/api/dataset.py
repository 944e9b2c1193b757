"""Where the rows of a job come from, what their columns are, and how they are split."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from kubeautoml.api.secrets import NO_CREDENTIALS
from kubeautoml.api.values import ApiModel, ColumnName, DecimalString, LocalRef

URI_PATTERN = r"^(s3|file)://.+$"
Uri = Annotated[str, StringConstraints(pattern=URI_PATTERN, max_length=1024), NO_CREDENTIALS]
"""s3://bucket/key, or file:///path for local runs and for volumes that the profile mounts."""


class ColumnType(StrEnum):
    """What a column holds."""

    NUMBER = "Number"
    CATEGORY = "Category"
    BOOLEAN = "Boolean"
    DATETIME = "Datetime"
    TEXT = "Text"
    IMAGE = "Image"
    IDENTIFIER = "Identifier"
    CONSTANT = "Constant"


class DataFormat(StrEnum):
    """How a file is written; Auto decides by its name."""

    AUTO = "Auto"
    CSV = "Csv"
    TSV = "Tsv"
    PARQUET = "Parquet"
    JSON_LINES = "JsonLines"
    IMAGE_FOLDER = "ImageFolder"
    WEB_DATASET = "WebDataset"
    NPZ = "Npz"
    TEXT_FOLDER = "TextFolder"


class DataSource(ApiModel):
    """Where rows come from."""

    uri: Uri
    """One object, a prefix ending in "/", or a glob such as s3://lake/churn/*.parquet; .gz and .zst are decompressed. Images: a prefix
    with a folder a class, a table with their paths or bytes, tar shards, or an .npz file. Texts: a column of a table, or a prefix with a
    folder a class of .txt files."""
    format: DataFormat = DataFormat.AUTO
    """Auto (by file name), Csv, Tsv, Parquet, JsonLines, ImageFolder (a folder a class), WebDataset (tar files), Npz (numpy arrays) or
    TextFolder (a folder a class of .txt files)."""
    secret_ref: LocalRef | None = None
    """Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if needed, AWS_ENDPOINT_URL, AWS_REGION, AWS_SESSION_TOKEN."""


class SplitType(StrEnum):
    """How the hold-out and the folds are drawn."""

    AUTO = "Auto"
    STRATIFIED = "Stratified"
    RANDOM = "Random"
    GROUP = "Group"
    TIME = "Time"


class Split(ApiModel):
    """How rows are kept for the final evaluation, and how folds are drawn."""

    type: SplitType = SplitType.AUTO
    """Auto (Stratified for classes, Group or Time when such a column is named, else Random), or one of these."""
    test_fraction: DecimalString = "0.2"
    """Share of rows kept for the final evaluation, which the search never sees, when dataset.test is absent; "0.05" to "0.5", or "0"
    for none: then cross-validation alone says what the model is worth."""
    folds: Annotated[int, Field(ge=2, le=20)] | None = None
    """Cross-validation folds; default: chosen from the number of rows, and fewer where there is little time for much data."""
    group_column: ColumnName | None = None
    """Rows with the same value never stand on both sides of a split."""
    time_column: ColumnName | None = None
    """Later rows are predicted from earlier ones."""


class Columns(ApiModel):
    """Corrections to what is inferred about columns."""

    types: dict[ColumnName, ColumnType] = Field(default_factory=dict, max_length=1024)
    """Type by column name, for columns that were inferred wrongly."""
    ignore: list[ColumnName] = Field(default_factory=list, max_length=1024)
    """Columns that are not used."""
    weight: ColumnName | None = None
    """Column with the weight of each row; not used as a feature."""


class Dataset(ApiModel):
    """The data."""

    train: DataSource
    """Rows to learn from."""
    test: DataSource | None = None
    """Rows for the final evaluation; when absent, split.testFraction of train is kept for it."""
    split: Split = Field(default_factory=Split)
    """How rows are split."""
    columns: Columns = Field(default_factory=Columns)
    """Corrections to the inferred columns."""
