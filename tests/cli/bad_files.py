"""Files that nobody can learn from, and what their authors are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kubeautoml.api.conditions import Reason

HEADER = "age,city,bought\n"


def lines(count: int = 30, row: str = "{i},{city},{yes}") -> str:
    """A header and rows; `row` may use i, city, yes and day."""
    rows = (
        row.format(i=i, city=("Bonn", "Kiel")[i % 2], yes=("no", "yes")[i // 2 % 2], day=f"2024-01-{i % 28 + 1:02d}")
        for i in range(count)
    )
    return HEADER + "".join(f"{r}\n" for r in rows)


@dataclass(frozen=True)
class Bad:
    """One bad input: the file's bytes (None: there is no file) and changes of the spec; reason and words of the answer."""

    name: str
    data: bytes | str | None
    reason: Reason
    said: tuple[str, ...]
    """What the one line must hold: the place, the rule, the value, and what to do where that is known."""
    spec: dict[str, Any] = field(default_factory=dict)
    file: str = "shop.csv"


NUMBERS = {"task": {"type": "TabularRegression", "target": "bought"}}
MAYBE = {"task": {"type": "TabularClassification", "target": "bought", "positiveClass": "maybe"}}

BAD_FILES = (
    Bad("missing file", None, Reason.DATASET_NOT_FOUND, ("no file matches {uri}", "check bucket, path and spelling")),
    Bad("empty file", "", Reason.DATASET_EMPTY, ("{uri} is empty",)),
    Bad("header alone", HEADER, Reason.DATASET_EMPTY, ("{uri} has a header and no rows",)),
    Bad(
        "wrong encoding",
        lines().replace("Kiel", "Köln").encode("latin1"),
        Reason.DATASET_UNREADABLE,
        ("{uri} must be UTF-8 text", "(0xf6) in line 3", "iconv"),
    ),
    Bad("binary", b"\x00\x01\x02PNG\x00" * 50, Reason.DATASET_UNREADABLE, ("{uri} must be text", "byte 0 is zero")),
    Bad("no gzip", b"plain", Reason.DATASET_UNREADABLE, ("{uri} cannot be decompressed as .gz",), file="shop.csv.gz"),
    Bad("unknown format", "a\n", Reason.DATASET_UNREADABLE, ("{uri}", "set format to Csv"), file="shop.xlsx"),
    Bad("no parquet", "a,b\n", Reason.DATASET_UNREADABLE, ("{uri} is no valid Parquet file",), file="shop.parquet"),
    Bad("no json", "{'a': 1}\n", Reason.DATASET_UNREADABLE, ("{uri}: line 1 is no JSON",), file="shop.jsonl"),
    Bad(
        "ragged",
        lines(20) + "1,Bonn,no,7\n2,Kiel,yes\n",
        Reason.DATASET_UNREADABLE,
        ("{uri}: every line must have 3 fields", "line 22 has 4", "quote values"),
    ),
    Bad(
        "duplicate names",
        lines().replace("age,city", "age,age"),
        Reason.DUPLICATE_COLUMNS,
        ("{uri}: column names must be different", "'age'", "rename them"),
    ),
    Bad(
        "target absent",
        lines().replace("bought", "bougth"),
        Reason.TARGET_NOT_FOUND,
        ("spec.task.target: column 'bought' is not in the data", "did you mean 'bougth'?", "age, city, bougth"),
    ),
    Bad(
        "target constant",
        lines(row="{i},{city},no"),
        Reason.TARGET_UNUSABLE,
        ("spec.task.target", "'bought' has the same value, 'no'"),
    ),
    Bad(
        "target missing", lines(row="{i},{city},"), Reason.TARGET_UNUSABLE, ("spec.task.target", "no value in any row")
    ),
    Bad(
        "class with one row",
        lines() + "3,Bonn,maybe\n",
        Reason.TARGET_UNUSABLE,
        ("spec.task.target", "at least two rows of each class", "'maybe' has one", "add rows or remove the class"),
    ),
    Bad("few rows", lines(6), Reason.TOO_FEW_ROWS, ("at least 10 rows with a value of 'bought', got 6",)),
    Bad(
        "fewer rows than folds",
        lines(14),
        Reason.TOO_FEW_ROWS,
        ("spec.dataset.split.folds must be at most", "got 20"),
        {"dataset": {"split": {"folds": 20}}},
    ),
    Bad(
        "dates as numbers",
        lines(row="{i},{city},{day}"),
        Reason.TARGET_UNUSABLE,
        ("spec.task.target: column 'bought' must hold numbers for TabularRegression", "dates such as '2024-01-01'"),
        NUMBERS,
    ),
    Bad(
        "dates as classes",
        lines(28, row="{i},{city},{day}"),
        Reason.TARGET_UNUSABLE,
        ("spec.task.target: column 'bought' must hold classes, got dates such as '2024-01-01'",),
    ),
    Bad(
        "infinite target",
        lines(row="{i},{city},{i}.5") + "3,Bonn,inf\n",
        Reason.TARGET_UNUSABLE,
        ("spec.task.target", "must hold finite numbers", "remove those rows"),
        NUMBERS,
    ),
    Bad(
        "words as numbers",
        lines(),
        Reason.TARGET_UNUSABLE,
        ("must hold numbers for TabularRegression, got 'no'", "for classes use TabularClassification"),
        NUMBERS,
    ),
    Bad(
        "numbers as classes",
        lines(row="{i},{city},{i}.25"),
        Reason.TARGET_UNUSABLE,
        ("has 30 different values", "use task type TabularRegression"),
    ),
    Bad(
        "unknown positive class",
        lines(),
        Reason.TARGET_UNUSABLE,
        ("spec.task.positiveClass must be one of the classes no, yes, got 'maybe'",),
        MAYBE,
    ),
    Bad(
        "no feature",
        lines(row="7,Bonn,{yes}"),
        Reason.INVALID_DATA,
        ("no column but 'bought' can be learned from", "age (Constant), city (Constant)"),
    ),
    Bad(
        "group column absent",
        lines(),
        Reason.COLUMN_NOT_FOUND,
        ("spec.dataset.split.groupColumn: column 'cty' is not in the data", "did you mean 'city'?"),
        {"dataset": {"split": {"type": "Group", "groupColumn": "cty"}}},
    ),
    Bad(
        "time column without times",
        lines(),
        Reason.INVALID_DATA,
        ("spec.dataset.split.timeColumn: column 'city' must hold dates or numbers",),
        {"dataset": {"split": {"type": "Time", "timeColumn": "city"}}},
    ),
)

USABLE = {
    "infinite values": (lines(row="{i},{city},{yes}") + "inf,Bonn,no\n-inf,Kiel,yes\n", "Number", "Category"),
    "mixed types": (lines(60) + "unknown,Bonn,no\n", "Number", "Category"),
    "a date": (lines(row="{i},{day},{yes}"), "Number", "Datetime"),
    "missing values": (lines() + ",,no\n,,yes\n", "Number", "Category"),
}
"""Odd files that can be learned from, with the types of age and city."""


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The other's values over the first's, object by object."""
    both = {
        k: merged(one[k], v) if isinstance(v, dict) and isinstance(one.get(k), dict) else v for k, v in other.items()
    }
    return {**one, **both}
