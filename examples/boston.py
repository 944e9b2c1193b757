"""Boston housing: the median value of homes (1,000 dollars) in 506 tracts. Writes train.csv and sample.json.

python examples/boston.py FOLDER
"""

from __future__ import annotations

import pandas as pd
from tables import main

COLUMNS = ["CRIM", "ZN", "INDUS", "CHAS", "NOX", "RM", "AGE", "DIS", "RAD", "TAX", "PTRATIO", "B", "LSTAT"]


def boston() -> pd.DataFrame:
    """Thirteen numbers a tract, and MEDV."""
    from mlxtend.data import boston_housing_data

    features, values = boston_housing_data()
    return pd.DataFrame(features, columns=COLUMNS).assign(MEDV=values)


if __name__ == "__main__":
    main(boston, "MEDV")
