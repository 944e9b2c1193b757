"""AutoGluon, presets `best_quality`."""

from __future__ import annotations

from rival import Fitted, Task, folder_bytes, run


def fit(task: Task) -> Fitted:
    from autogluon.tabular import TabularPredictor

    folder = task.folder / "autogluon"
    predictor = TabularPredictor(
        task.target,
        problem_type=task.kind,
        eval_metric=task.pick("roc_auc", "log_loss", "root_mean_squared_error"),
        path=str(folder),
        verbosity=1,
    )
    predictor.fit(task.train, presets="best_quality", time_limit=task.budget, num_cpus=task.cores)
    size = folder_bytes(folder)
    if task.kind == "regression":
        return Fitted(lambda rows: predictor.predict(rows).to_numpy(), size_bytes=size, notes=predictor.model_best)
    classes = list(predictor.class_labels)
    return Fitted(lambda rows: predictor.predict_proba(rows)[classes].to_numpy(), classes, size, predictor.model_best)


if __name__ == "__main__":
    run("autogluon.tabular", fit)
