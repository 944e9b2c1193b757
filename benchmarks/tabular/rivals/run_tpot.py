"""TPOT: generations=5 and population_size=50 as in its example, within the budget."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
from rival import Fitted, Task, run


def fit(task: Task) -> Fitted:
    from sklearn.preprocessing import LabelEncoder
    from tpot import TPOTClassifier, TPOTRegressor

    kind = TPOTRegressor if task.kind == "regression" else TPOTClassifier
    model = kind(
        scorers=[task.pick("roc_auc", "neg_log_loss", "neg_root_mean_squared_error")],
        scorers_weights=[1],
        generations=5,
        population_size=50,
        max_time_mins=task.budget / 60,
        max_eval_time_mins=task.budget / 60,
        n_jobs=task.cores,
        random_state=task.seed,
        preprocessing=True,
        verbose=0,
    )
    encoder = LabelEncoder()
    y = task.y if task.kind == "regression" else encoder.fit_transform(task.y)

    def plain(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.astype(dict.fromkeys(task.words, "object"))

    model.fit(plain(task.features), np.asarray(y))
    pipeline = model.fitted_pipeline_
    size = len(pickle.dumps(pipeline))
    if task.kind == "regression":
        return Fitted(lambda rows: model.predict(plain(rows)), size_bytes=size)
    return Fitted(lambda rows: model.predict_proba(plain(rows)), list(encoder.classes_), size)


if __name__ == "__main__":
    run("tpot", fit)
