"""mljar-supervised, mode `Compete`."""

from __future__ import annotations

from rival import Fitted, Task, folder_bytes, run


def fit(task: Task) -> Fitted:
    from supervised import AutoML

    folder = task.folder / "mljar"
    model = AutoML(
        results_path=str(folder),
        mode="Compete",
        total_time_limit=task.budget,
        ml_task={"binary": "binary_classification", "multiclass": "multiclass_classification"}.get(
            task.kind, task.kind
        ),
        eval_metric=task.pick("auc", "logloss", "rmse"),
        n_jobs=task.cores,
        random_state=task.seed + 1,
    )
    model.fit(task.features, task.y)
    size = folder_bytes(folder)
    if task.kind == "regression":
        return Fitted(model.predict, size_bytes=size)
    classes = [c.removeprefix("prediction_") for c in model.predict_all(task.rows.iloc[[0]]).columns]
    return Fitted(model.predict_proba, [c for c in classes if c != "label"], size)


if __name__ == "__main__":
    run("mljar-supervised", fit)
