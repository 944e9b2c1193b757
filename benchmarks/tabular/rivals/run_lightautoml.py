"""LightAutoML's TabularAutoML."""

from __future__ import annotations

import pickle

import numpy as np
from rival import Fitted, Task, run


def fit(task: Task) -> Fitted:
    from lightautoml.automl.presets.tabular_presets import TabularAutoML
    from lightautoml.tasks import Task as LightTask

    classes = sorted(task.y.unique()) if task.kind != "regression" else []
    train = task.train.astype(dict.fromkeys(task.words, "object"))
    if classes:
        train[task.target] = train[task.target].map({c: i for i, c in enumerate(classes)})
    model = TabularAutoML(
        task=LightTask(task.pick("binary", "multiclass", "reg"), metric=task.pick("auc", "crossentropy", "mse")),
        timeout=task.budget,
        cpu_limit=task.cores,
        reader_params={"n_jobs": task.cores, "cv": 5, "random_state": task.seed},
    )
    model.fit_predict(train, roles={"target": task.target}, verbose=0)
    order = None
    if task.kind == "multiclass" and (mapping := model.reader.class_mapping):
        order = [mapping[i] for i in range(len(classes))]

    def predict(rows: object) -> object:
        raw = np.asarray(model.predict(rows.astype(dict.fromkeys(task.words, "object"))).data)  # type: ignore[attr-defined]
        if task.kind == "regression":
            return raw[:, 0]
        if task.kind == "binary":
            return np.column_stack([1 - raw[:, 0], raw[:, 0]])
        return raw if order is None else raw[:, order]

    return Fitted(predict, classes, len(pickle.dumps(model)))


if __name__ == "__main__":
    run("lightautoml", fit)
