"""FLAML: one model of the family and parameters that its search finds, as a user runs it: AutoML().fit(time_budget=...)."""

from __future__ import annotations

import pickle

from rival import Fitted, Task, run


def fit(task: Task) -> Fitted:
    from flaml import AutoML

    model = AutoML()
    model.fit(
        task.features,
        task.y,
        task="regression" if task.kind == "regression" else "classification",
        metric=task.pick("roc_auc", "log_loss", "rmse"),
        time_budget=task.budget,
        n_jobs=task.cores,
        seed=task.seed,
        ensemble=True,
        verbose=0,
    )
    size = len(pickle.dumps(model))
    if task.kind == "regression":
        return Fitted(model.predict, size_bytes=size, notes=str(model.best_estimator))
    return Fitted(model.predict_proba, list(model.classes_), size, str(model.best_estimator))


if __name__ == "__main__":
    run("flaml", fit)
